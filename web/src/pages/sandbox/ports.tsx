import { useQuery } from '@tanstack/react-query';
import { ExternalLink } from 'lucide-react';
import { useState } from 'react';
import { Badge, Button, Card, CopyText, Empty, Field, Input, Loading, Problem } from '../../components/ui';
import { files } from '../../lib/agent';
import { listening, portUrl } from '../../lib/ports';
import { session } from '../../lib/queries';
import type { Detail } from '../../lib/types';

export function Ports({ one }: { one: Detail }) {
  const domain = useQuery(session).data?.domain ?? one.domain;
  const [other, setOther] = useState('3000');
  const found = useQuery({
    queryKey: ['ports', one.sandboxID],
    // Read as files: a program that is run for it would show in the logs.
    queryFn: async () => {
      const table = async (name: string) => (await files.read(one.sandboxID, `/proc/net/${name}`)).text();
      // A kernel without IPv6 has no second one.
      return listening(`${await table('tcp')}\n${await table('tcp6').catch(() => '')}`);
    },
    refetchInterval: 5000,
  });
  const url = (port: number) => portUrl(port, one.sandboxID, domain, window.location);
  const closed = one.network?.allowPublicTraffic === false;
  return (
    <Card title="Ports that listen">
      {closed && <p className="mx-4 mt-4 rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">This sandbox takes no public traffic: its URLs ask for the header <code>E2B-Traffic-Access-Token</code>, which browsers do not send.</p>}
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data?.length === 0 && (
        <Empty title="Nothing listens yet">
          <p className="text-sm text-muted">Start a server in the terminal, and its link shows here:</p>
          <CopyText text="python3 -m http.server 3000" />
        </Empty>
      )}
      <ul className="divide-y divide-line">
        {found.data?.map(({ port, loopback }) => (
          <li key={port} className="flex flex-wrap items-center gap-3 px-4 py-2">
            <span className="w-16 font-medium tabular-nums">{port}</span>
            {loopback && <Badge>on localhost in the guest</Badge>}
            <CopyText text={url(port)} className="min-w-0 flex-1 basis-60" />
            <a href={url(port)} target="_blank" rel="noopener noreferrer" className="inline-flex min-h-9 items-center gap-2 rounded-md border border-line px-3 text-sm font-medium hover:bg-raised">
              Open <ExternalLink className="size-4" aria-hidden /><span className="sr-only">port {port} in a new tab</span>
            </a>
          </li>
        ))}
      </ul>
      <form className="flex flex-wrap items-end gap-2 border-t border-line p-4" onSubmit={(event) => { event.preventDefault(); window.open(url(Number(other)), '_blank', 'noopener'); }}>
        <div className="w-36"><Field label="Another port">{(id) => <Input id={id} type="number" min="1" max="65535" required value={other} onChange={(event) => setOther(event.target.value)} />}</Field></div>
        <Button type="submit">Open</Button>
      </form>
    </Card>
  );
}
