import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate } from '@tanstack/react-router';
import { Copy, Plus, Webhook as Icon } from 'lucide-react';
import { useState } from 'react';
import { Badge, Button, Card, Dialog, Empty, Field, IconButton, Input, Loading, PageHead, Problem, Snippets, Switch, copy } from '../components/ui';
import { api, enc } from '../lib/api';
import { eventTypes } from '../lib/events';
import { count } from '../lib/format';
import { useChange, webhooks } from '../lib/queries';
import { firstWebhook } from '../lib/snippets';
import type { Webhook } from '../lib/types';

export const webhookState = (one: Webhook) => (one.enabled ? { text: 'enabled', tone: 'ok' as const } : one.disabledReason ? { text: 'disabled after failures', tone: 'bad' as const } : { text: 'disabled', tone: 'plain' as const });

export default function Webhooks() {
  const navigate = useNavigate();
  const found = useQuery(webhooks);
  const [creating, create] = useState(false);
  const button = <Button look="primary" onClick={() => create(true)}><Plus className="size-4" aria-hidden /> New webhook</Button>;
  return (
    <>
      <PageHead title="Webhooks">{!!found.data?.length && button}</PageHead>
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No webhooks yet">
            <p className="text-sm text-muted">A webhook is an address that is sent events as they happen: signed, in order for each sandbox, and tried again for a day. Make one here, or from your program:</p>
            {button}
            <Snippets snippets={firstWebhook} />
          </Empty>
        )}
        <ul className="divide-y divide-line">
          {found.data?.map((one) => (
            <li key={one.id}>
              <Link to="/dashboard/webhooks/$id" params={{ id: one.id }} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-4 py-3 hover:bg-raised">
                <Icon className="size-4 shrink-0 text-accent" aria-hidden />
                <span className="min-w-0 flex-1 basis-56">
                  <span className="block truncate font-medium">{one.name}</span>
                  <code className="block truncate text-xs text-muted">{one.url}</code>
                </span>
                <Badge tone={webhookState(one).tone}>{webhookState(one).text}</Badge>
                <span className="text-sm text-muted">{count(one.events.length, 'type of event', 'types of events')}</span>
              </Link>
            </li>
          ))}
        </ul>
      </Card>
      {creating && <EditWebhook close={() => create(false)} then={(made) => navigate({ to: '/dashboard/webhooks/$id', params: { id: made.id } })} />}
    </>
  );
}

const secretOf = () => [...crypto.getRandomValues(new Uint8Array(32))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

// A new webhook, or another form of one that there is.
export function EditWebhook({ of, close, then }: { of?: Webhook; close: () => void; then?: (made: Webhook) => void }) {
  const [name, setName] = useState(of?.name ?? '');
  const [url, setUrl] = useState(of?.url ?? '');
  const [secret, setSecret] = useState(() => (of ? '' : secretOf()));
  const [chosen, choose] = useState(of?.events ?? ['sandbox.lifecycle.created', 'sandbox.lifecycle.killed']);
  const all = chosen.length === eventTypes.length;
  const toggle = (type: string, on: boolean) => choose((before) => eventTypes.map((one) => one.type).filter((one) => (one === type ? on : before.includes(one))));
  const body = { name: name.trim(), url: url.trim(), events: chosen, ...(secret ? { signatureSecret: secret } : {}) };
  const save = useChange(
    () => (of ? api.patch<Webhook>(`/events/webhooks/${enc(of.id)}`, body) : api.post<Webhook>('/events/webhooks', body)),
    of ? 'The webhook is changed' : 'The webhook is made',
    [webhooks.queryKey, ...(of ? [['webhook', of.id]] : [])],
    (made) => { close(); then?.(made); },
  );
  return (
    <Dialog open onOpenChange={close} title={of ? `Change ${of.name}` : 'New webhook'} description="It is sent what happens from now on.">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        <Field label="Name">{(id) => <Input id={id} required autoFocus maxLength={256} value={name} onChange={(event) => setName(event.target.value)} />}</Field>
        <Field label="URL" hint="http or https, at a public address. The operator may allow others (events.private_receivers).">{(id) => <Input id={id} type="url" required placeholder="https://example.com/hook" value={url} onChange={(event) => setUrl(event.target.value)} />}</Field>
        <fieldset>
          <legend className="mb-1 flex w-full items-center justify-between text-sm font-medium">Events <Button look="quiet" onClick={() => choose(all ? [] : eventTypes.map((one) => one.type))}>{all ? 'None' : 'All'}</Button></legend>
          <div className="grid gap-2 sm:grid-cols-2">
            {eventTypes.map(({ type, label }) => <Switch key={type} label={label} checked={chosen.includes(type)} onChange={(on) => toggle(type, on)} />)}
          </div>
        </fieldset>
        <Field label="Signature secret" hint={of ? 'Left empty: it stays. Nobody can read it back.' : 'Copy it for the receiver now: nobody can read it back.'}>
          {(id) => (
            <span className="flex items-center gap-1">
              <Input id={id} required={!of} autoComplete="off" spellCheck={false} className="mono min-w-0" value={secret} onChange={(event) => setSecret(event.target.value)} />
              {!of && <IconButton label="Copy the secret" className="shrink-0" onClick={() => copy(secret)}><Copy className="size-4" /></IconButton>}
            </span>
          )}
        </Field>
        {save.error && <div className="-mx-4"><Problem error={save.error} /></div>}
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending} disabled={!chosen.length}>{of ? 'Save' : 'Create'}</Button></div>
      </form>
    </Dialog>
  );
}
