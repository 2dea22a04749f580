import { useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { Button, Dialog, Field, Input, Problem, Switch, Textarea } from '../components/ui';
import { api } from '../lib/api';
import { pairs } from '../lib/format';
import { sandboxes, templateName, templates, useChange } from '../lib/queries';

export function CreateSandbox({ template: first, close }: { template: string; close: () => void }) {
  const navigate = useNavigate();
  const known = useQuery(templates);
  const [template, setTemplate] = useState(first);
  const [minutes, setMinutes] = useState('5');
  const [metadata, setMetadata] = useState('');
  const [variables, setVariables] = useState('');
  const [pause, setPause] = useState(false);
  const [internet, setInternet] = useState(true);
  const create = useChange(
    async () =>
      api.post<{ sandboxID: string }>('/sandboxes', {
        templateID: template.trim(),
        timeout: Math.round(Number(minutes) * 60),
        metadata: pairs(metadata),
        envVars: pairs(variables),
        autoPause: pause,
        secure: true,
        allow_internet_access: internet,
      }),
    'The sandbox runs',
    [sandboxes.queryKey],
    ({ sandboxID }) => navigate({ to: '/dashboard/sandboxes/$id', params: { id: sandboxID } }),
  );
  return (
    <Dialog open onOpenChange={close} title="Create a sandbox">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); create.mutate(undefined); }}>
        <Field label="Template" hint="A name, an ID, or a snapshot's ID; with a tag if you like, as in name:tag">
          {(id) => (
            <>
              <Input id={id} list={`${id}-known`} required value={template} onChange={(event) => setTemplate(event.target.value)} />
              <datalist id={`${id}-known`}>{known.data?.map((one) => <option key={one.templateID} value={templateName(one)} />)}</datalist>
            </>
          )}
        </Field>
        <Field label="Ends after (minutes)" hint="Can be extended while it runs">
          {(id) => <Input id={id} type="number" min="0.5" step="0.5" required value={minutes} onChange={(event) => setMinutes(event.target.value)} />}
        </Field>
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Metadata" hint="name=value, one to a line">{(id) => <Textarea id={id} rows={3} value={metadata} onChange={(event) => setMetadata(event.target.value)} />}</Field>
          <Field label="Environment variables" hint="name=value, one to a line">{(id) => <Textarea id={id} rows={3} value={variables} onChange={(event) => setVariables(event.target.value)} />}</Field>
        </div>
        <Switch label="Pause at the end" hint="Instead of being killed, it keeps its memory and files and can be resumed." checked={pause} onChange={setPause} />
        <Switch label="Internet access" hint="What it may reach can be changed while it runs." checked={internet} onChange={setInternet} />
        {create.error && <div className="-mx-4"><Problem error={create.error} /></div>}
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={create.isPending}>Create</Button></div>
      </form>
    </Dialog>
  );
}
