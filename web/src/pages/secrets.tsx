import { useQuery } from '@tanstack/react-query';
import { Plus, RefreshCw, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Button, Card, Confirm, Dialog, Empty, Field, IconButton, Input, Loading, PageHead, Problem, Snippets } from '../components/ui';
import { api, enc } from '../lib/api';
import { ago, when } from '../lib/format';
import { secrets, useChange } from '../lib/queries';
import { secretRule } from '../lib/snippets';
import type { Secret } from '../lib/types';

export default function Secrets() {
  const found = useQuery(secrets);
  const [editing, edit] = useState<Secret | 'new' | null>(null);
  const [doomed, doom] = useState<Secret | null>(null);
  const remove = useChange((secret: Secret) => api.delete(`/secrets/${enc(secret.secretID)}`), 'The secret is deleted', [secrets.queryKey], () => doom(null));
  const create = <Button look="primary" onClick={() => edit('new')}><Plus className="size-4" aria-hidden /> New secret</Button>;
  return (
    <>
      <PageHead title="Secrets">{!!found.data?.length && create}</PageHead>
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No secrets yet">
            <p className="text-sm text-muted">A secret is put into requests that sandboxes send out, by network rules, so that no program in a sandbox ever sees its value.</p>
            {create}
          </Empty>
        )}
        {!!found.data?.length && (
          <ul className="divide-y divide-line">
            {found.data.map((secret) => (
              <li key={secret.secretID} className="flex items-center gap-3 px-4 py-3">
                <div className="min-w-0 flex-1">
                  <div className="truncate font-medium">{secret.name}</div>
                  <div className="text-xs text-muted" title={when(secret.updatedAt)}>version {secret.currentVersion} · changed {ago(secret.updatedAt)}</div>
                </div>
                <Button onClick={() => edit(secret)}><RefreshCw className="size-4" aria-hidden /> New value</Button>
                <IconButton label={`Delete ${secret.name}`} onClick={() => doom(secret)}><Trash2 className="size-4" /></IconButton>
              </li>
            ))}
          </ul>
        )}
      </Card>
      {!!found.data?.length && <div className="mt-4"><Card title="Use a secret"><div className="p-4"><Snippets snippets={secretRule(found.data[0]?.name ?? '')} /></div></Card></div>}
      {editing && <Edit of={editing} close={() => edit(null)} />}
      <Confirm open={!!doomed} onOpenChange={() => doom(null)} title={`Delete ${doomed?.name}?`} text="Rules that name it send no value from then on. This cannot be undone." action="Delete" busy={remove.isPending} onConfirm={() => doomed && remove.mutate(doomed)} />
    </>
  );
}

function Edit({ of, close }: { of: Secret | 'new'; close: () => void }) {
  const [name, setName] = useState('');
  const [value, setValue] = useState('');
  const save = useChange(
    () => (of === 'new' ? api.post('/secrets', { name, value }) : api.post(`/secrets/${enc(of.secretID)}`, { value })),
    of === 'new' ? 'The secret is kept' : 'The new value holds',
    [secrets.queryKey],
    close,
  );
  return (
    <Dialog open onOpenChange={close} title={of === 'new' ? 'New secret' : `New value of ${of.name}`} description="The value can be replaced later, but nobody can read it back.">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        {of === 'new' && <Field label="Name">{(id) => <Input id={id} required autoFocus value={name} onChange={(event) => setName(event.target.value)} />}</Field>}
        <Field label="Value">{(id) => <Input id={id} type="password" autoComplete="off" required value={value} onChange={(event) => setValue(event.target.value)} />}</Field>
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending}>Save</Button></div>
      </form>
    </Dialog>
  );
}
