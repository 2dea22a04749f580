import { useQuery } from '@tanstack/react-query';
import { Pencil, Plus, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Badge, Button, Card, Confirm, CopyText, Dialog, Field, IconButton, Input, Loading, PageHead, Problem, Switch, Textarea } from '../components/ui';
import { api, enc } from '../lib/api';
import { ago, left, lines, when } from '../lib/format';
import { keys, useChange } from '../lib/queries';
import type { ApiKey, CreatedKey, Scope } from '../lib/types';

const scopes: { scope: Scope; label: string }[] = [
  { scope: 'sandboxes', label: 'Sandboxes, their snapshots, logs, metrics and events; volumes' },
  { scope: 'templates', label: 'Templates and their builds' },
  { scope: 'secrets', label: 'Secrets' },
  { scope: 'admin', label: 'API keys and webhooks; nodes, in the first team' },
];

const isOver = (key: ApiKey) => !!key.expiresAt && Date.parse(key.expiresAt) <= Date.now();
const masked = ({ mask }: ApiKey) => `${mask.prefix}${mask.maskedValuePrefix}…${mask.maskedValueSuffix}`;

export default function Keys() {
  const found = useQuery(keys);
  const [creating, create] = useState(false);
  const [renaming, rename] = useState<ApiKey | null>(null);
  const [doomed, doom] = useState<ApiKey | null>(null);
  const remove = useChange((key: ApiKey) => api.delete(`/api-keys/${enc(key.id)}`), (_, key) => `The key ${key.name} is deleted`, [keys.queryKey], () => doom(null));
  return (
    <>
      <PageHead title="API keys">
        {found.data && <Button look="primary" onClick={() => create(true)}><Plus className="size-4" aria-hidden /> New key</Button>}
      </PageHead>
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        <ul className="divide-y divide-line">
          {found.data?.map((key) => (
            <li key={key.id} className="flex items-center gap-1 py-3 pr-2 pl-4">
              <div className="grid min-w-0 flex-1 gap-x-4 gap-y-1 lg:grid-cols-[minmax(0,1fr)_minmax(0,1fr)_12rem]">
                <div className="min-w-0">
                  <div className="truncate font-medium">{key.name}</div>
                  <code className="text-xs text-muted">{masked(key)}</code>
                </div>
                <div className="flex min-w-0 flex-wrap content-start gap-1">
                  {isOver(key) && <Badge tone="bad">expired</Badge>}
                  {key.readOnly && <Badge tone="accent">read-only</Badge>}
                  {key.scopes.map((scope) => <Badge key={scope}>{scope}</Badge>)}
                  {key.networks.map((network) => <Badge key={network} tone="warn">from {network}</Badge>)}
                </div>
                <div className="text-xs text-muted">
                  <span className="block" title={when(key.createdAt)}>made {ago(key.createdAt)}{key.lastUsed && `, used ${ago(key.lastUsed)}`}</span>
                  {key.expiresAt && !isOver(key) && <span className="block" title={when(key.expiresAt)}>ends {left(key.expiresAt)}</span>}
                </div>
              </div>
              <IconButton label={`Rename ${key.name}`} onClick={() => rename(key)}><Pencil className="size-4" /></IconButton>
              <IconButton label={`Delete ${key.name}`} onClick={() => doom(key)}><Trash2 className="size-4" /></IconButton>
            </li>
          ))}
        </ul>
      </Card>
      {creating && <Create close={() => create(false)} />}
      {renaming && <Rename of={renaming} close={() => rename(null)} />}
      <Confirm open={!!doomed} onOpenChange={() => doom(null)} title={`Delete ${doomed?.name}?`} text="Programs that use this key are refused from now on, and who is signed in with it is signed out. This cannot be undone." action="Delete" busy={remove.isPending} onConfirm={() => doomed && remove.mutate(doomed)} />
    </>
  );
}

function Create({ close }: { close: () => void }) {
  const [name, setName] = useState('');
  const [chosen, choose] = useState(scopes.map(({ scope }) => scope));
  const [readOnly, setReadOnly] = useState(false);
  const [days, setDays] = useState('');
  const [networks, setNetworks] = useState('');
  const [created, setCreated] = useState<CreatedKey | null>(null);
  const create = useChange(
    () =>
      // What is left out is as it is for the key of this session.
      api.post<CreatedKey>('/api-keys', {
        name: name.trim(),
        ...(chosen.length < scopes.length ? { scopes: chosen } : {}),
        ...(readOnly ? { readOnly } : {}),
        ...(days ? { expiresAt: new Date(Date.now() + Number(days) * 86_400_000).toISOString() } : {}),
        ...(lines(networks).length ? { networks: lines(networks) } : {}),
      }),
    'The key is made',
    [keys.queryKey],
    setCreated,
  );
  if (created) {
    return (
      <Dialog open onOpenChange={close} title={`The key ${created.name}`} description="Copy it now: it is shown this once, and nobody can read it back.">
        <div className="space-y-4">
          <div className="rounded-md border border-line bg-bg p-3"><CopyText text={created.key} whole /></div>
          <div className="flex justify-end"><Button look="primary" onClick={close}>Done</Button></div>
        </div>
      </Dialog>
    );
  }
  const toggle = (scope: Scope, on: boolean) => choose((before) => scopes.map((one) => one.scope).filter((one) => (one === scope ? on : before.includes(one))));
  return (
    <Dialog open onOpenChange={close} title="New API key" description="It can do no more than the key that you signed in with.">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); create.mutate(undefined); }}>
        <Field label="Name" hint="What it is for, such as the program that will use it">{(id) => <Input id={id} required autoFocus maxLength={256} value={name} onChange={(event) => setName(event.target.value)} />}</Field>
        <fieldset className="space-y-2">
          <legend className="mb-1 text-sm font-medium">For</legend>
          {scopes.map(({ scope, label }) => <Switch key={scope} label={label} checked={chosen.includes(scope)} onChange={(on) => toggle(scope, on)} />)}
        </fieldset>
        <Switch label="Read-only" hint="It may look and change nothing: no terminals and files of sandboxes either." checked={readOnly} onChange={setReadOnly} />
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Ends after (days)" hint="Left empty: when yours does">{(id) => <Input id={id} type="number" min="1" step="1" value={days} onChange={(event) => setDays(event.target.value)} />}</Field>
          <Field label="Only from these networks" hint="One to a line. Left empty: from where yours may be used">{(id) => <Textarea id={id} rows={2} value={networks} placeholder="198.51.100.0/24" onChange={(event) => setNetworks(event.target.value)} />}</Field>
        </div>
        {create.error && <div className="-mx-4"><Problem error={create.error} /></div>}
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={create.isPending} disabled={!chosen.length}>Create</Button></div>
      </form>
    </Dialog>
  );
}

function Rename({ of, close }: { of: ApiKey; close: () => void }) {
  const [name, setName] = useState(of.name);
  const save = useChange(() => api.patch(`/api-keys/${enc(of.id)}`, { name: name.trim() }), 'The key is renamed', [keys.queryKey], close);
  return (
    <Dialog open onOpenChange={close} title={`Rename ${of.name}`} description="What the key may be used for stays.">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        <Field label="Name">{(id) => <Input id={id} required autoFocus maxLength={256} value={name} onChange={(event) => setName(event.target.value)} />}</Field>
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending}>Rename</Button></div>
      </form>
    </Dialog>
  );
}
