// The machines that run sandboxes. They are the operator's: other sessions learn what it takes.
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { Badge, Card, Empty, Loading, Meter, PageHead, Problem, Snippets, stateTone } from '../components/ui';
import { ApiError } from '../lib/api';
import { ago, bytes, count, when } from '../lib/format';
import { nodes } from '../lib/queries';
import { operateNodes } from '../lib/snippets';
import type { Node } from '../lib/types';

export const isRefused = (error: unknown) => error instanceof ApiError && error.status === 403;

export default function Nodes() {
  const found = useQuery(nodes);
  return (
    <>
      <PageHead title="Nodes" />
      <Card>
        {found.isPending && <Loading />}
        {isRefused(found.error) ? <Refused /> : found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No node has registered">
            <p className="text-sm text-muted">The daemon registers its machine when it starts. If this stays, look into its log: <code>journalctl -u hearth</code></p>
          </Empty>
        )}
        <ul className="divide-y divide-line">
          {found.data?.map((node) => <Row key={node.id} node={node} />)}
        </ul>
      </Card>
    </>
  );
}

// What the session's key lacks, and the same without it.
export function Refused() {
  return (
    <Empty title="Nodes are the operator’s">
      <p className="text-sm text-muted">Sign in with an API key of the first team (<code>default</code>) that has the scope <code>admin</code>. On the server, the command line needs no key:</p>
      <Snippets snippets={operateNodes} />
    </Empty>
  );
}

// Where the node stands between ready and empty, in words.
export function standing(node: Node): string {
  if (node.status === 'draining') return node.outstandingWork ? `takes no new sandboxes, waits for ${count(node.outstandingWork, 'sandbox', 'sandboxes')}` : 'takes no new sandboxes, and none runs';
  if (node.status === 'standby') return 'is kept in reserve: takes no new sandboxes';
  if (node.status === 'connecting') return 'has registered, and not reported yet';
  if (node.status === 'unhealthy') return node.lastHeartbeatAt ? `was last heard of ${ago(node.lastHeartbeatAt)}` : 'was not heard of since its start';
  return 'takes sandboxes';
}

export function Load({ node: { metrics, sandboxCount, maxSandboxes } }: { node: Node }) {
  const share = (used: number, total: number) => (total ? used / total : undefined);
  return (
    <>
      <Meter label="Sandboxes" part={share(sandboxCount, maxSandboxes)} text={`${sandboxCount} of ${maxSandboxes}`} />
      <Meter label="CPU used" part={metrics.cpuPercent / 100} text={`${metrics.cpuPercent} % of ${metrics.cpuCount}`} />
      <Meter label="Memory used" part={share(metrics.memoryUsedBytes, metrics.memoryTotalBytes)} text={`${bytes(metrics.memoryUsedBytes)} of ${bytes(metrics.memoryTotalBytes)}`} />
    </>
  );
}

function Row({ node }: { node: Node }) {
  const labels = Object.entries(node.labels);
  return (
    <li>
      <Link to="/dashboard/nodes/$id" params={{ id: node.id }} className="grid grid-cols-[minmax(0,1fr)_auto] items-center gap-x-4 gap-y-2 px-4 py-3 hover:bg-raised lg:grid-cols-[minmax(0,1fr)_6rem_minmax(0,1.5fr)_11rem]">
        <span className="min-w-0">
          <span className="block truncate font-medium">{node.name}</span>
          <span className="block truncate text-xs text-muted">{standing(node)}{labels.length > 0 && ` · ${labels.map(([name, value]) => `${name}=${value}`).join(' ')}`}</span>
        </span>
        <span><Badge tone={stateTone(node.status)}>{node.status}</Badge></span>
        <span className="col-span-2 flex min-w-0 gap-4 lg:col-span-1"><Load node={node} /></span>
        <span className="col-span-2 text-xs text-muted lg:col-span-1" title={`since ${when(node.statusChangedAt)}`}>
          allocated {count(node.metrics.allocatedCPU, 'vCPU', 'vCPU')}, {bytes(node.metrics.allocatedMemoryBytes)}
        </span>
      </Link>
    </li>
  );
}
