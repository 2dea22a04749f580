import { useState } from 'react';
import { Button, Card, Facts, Field, Switch, Textarea } from '../../components/ui';
import { api, enc } from '../../lib/api';
import { lines } from '../../lib/format';
import { useChange } from '../../lib/queries';
import type { Detail } from '../../lib/types';

export function Network({ one }: { one: Detail }) {
  const network = one.network ?? {};
  const [internet, setInternet] = useState(one.allowInternetAccess !== false);
  const [allow, setAllow] = useState((network.allowOut ?? []).join('\n'));
  const [deny, setDeny] = useState((network.denyOut ?? []).join('\n'));
  const save = useChange(
    () =>
      api.put(`/sandboxes/${enc(one.sandboxID)}/network`, {
        allowOut: lines(allow),
        denyOut: lines(deny),
        allow_internet_access: internet,
        // All is replaced at once: what this form does not show stays as it is.
        ...(network.rules ? { rules: network.rules } : {}),
        ...(network.dnsServers ? { dnsServers: network.dnsServers } : {}),
      }),
    'The rules hold',
    [['sandbox', one.sandboxID]],
  );
  const rules = Object.keys(network.rules ?? {});
  const proxied = !!network.egressProxy;
  return (
    <div className="space-y-4">
      <Card title="What the sandbox may reach">
        <form className="max-w-3xl space-y-4 p-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
          {proxied && <p className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">This sandbox goes through a proxy of its own, whose password cannot be read back. Change its rules from code, with the password.</p>}
          {one.state === 'paused' && <p className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">Rules can be changed while the sandbox runs: resume it first.</p>}
          <Switch label="Internet access" hint="Without it only what is allowed below is reached." checked={internet} onChange={setInternet} />
          <div className="grid gap-4 sm:grid-cols-2">
            <Field label="Allowed" hint="IP addresses, CIDR blocks and domain names, one to a line. They win over what is denied. Domain names need 0.0.0.0/0 denied.">
              {(id) => <Textarea id={id} rows={5} value={allow} onChange={(event) => setAllow(event.target.value)} placeholder={'api.example.com\n192.0.2.0/24'} />}
            </Field>
            <Field label="Denied" hint="IP addresses and CIDR blocks, one to a line.">
              {(id) => <Textarea id={id} rows={5} value={deny} onChange={(event) => setDeny(event.target.value)} placeholder="0.0.0.0/0" />}
            </Field>
          </div>
          <Button type="submit" look="primary" busy={save.isPending} disabled={proxied || one.state === 'paused'}>Apply</Button>
        </form>
      </Card>
      <Card title="Other settings">
        <Facts
          facts={[
            ['Who reaches it', network.allowPublicTraffic === false ? 'Those with its traffic access token' : 'Anyone with its URL'],
            ['Rules that change requests', rules.length ? rules.join(', ') : 'none'],
            ['Proxy', network.egressProxy?.address ?? 'none'],
            ['Name servers', network.dnsServers?.join(', ') || 'the host’s'],
            ['Ports that speak HTTPS', network.httpsPorts?.join(', ') || 'none'],
            ['Host that its servers see', network.maskRequestHost ?? 'its own'],
          ]}
        />
      </Card>
    </div>
  );
}
