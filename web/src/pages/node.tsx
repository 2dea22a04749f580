// One node: what it is and holds, and taking it out of service.
import { useQuery } from '@tanstack/react-query';
import { Link, getRouteApi, useNavigate } from '@tanstack/react-router';
import { Ban, Check, Hourglass, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Load, Refused, isRefused, standing } from './nodes';
import { Badge, Button, Card, Confirm, CopyText, Dialog, Empty, Facts, Loading, Meter, PageHead, Problem, stateTone } from '../components/ui';
import { ApiError, api, enc } from '../lib/api';
import { ago, bytes, count, span, when } from '../lib/format';
import { node as nodeOf, nodes, useChange } from '../lib/queries';
import type { Node as Told, NodeStatus } from '../lib/types';

const route = getRouteApi('/dashboard/nodes/$id');

export default function Node() {
  const { id } = route.useParams();
  const found = useQuery(nodeOf(id));
  if (found.isPending) return <Loading />;
  if (isRefused(found.error)) return <Refused />;
  if (found.error instanceof ApiError && found.error.status === 404) {
    return (
      <Empty page title="There is no such node">
        <p className="text-sm text-muted">It was removed, or it is one of another installation.</p>
        <Link to="/dashboard/nodes"><Button look="primary">To the nodes</Button></Link>
      </Empty>
    );
  }
  if (!found.data) return <Problem error={found.error} retry={() => found.refetch()} />;
  const one = found.data;
  return (
    <>
      <p className="mb-1 text-sm"><Link to="/dashboard/nodes" className="text-muted hover:text-text">Nodes</Link></p>
      <PageHead title={<>{one.name} <Badge tone={stateTone(one.status)}>{one.status}</Badge></>}><Actions one={one} /></PageHead>
      <div className="space-y-4">
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        <p role="status" className="text-sm text-muted">It {standing(one)} <span title={`since ${when(one.statusChangedAt)}`}>({one.status} for {span((Date.now() - Date.parse(one.statusChangedAt)) / 1000)})</span></p>
        <Card title="In use">
          <div className="flex flex-wrap gap-4 p-4"><Load node={one} /></div>
          <Facts facts={[['Allocated to running sandboxes', `${one.metrics.allocatedCPU} vCPU, ${bytes(one.metrics.allocatedMemoryBytes)} of memory`], ['Sandboxes made since its start', `${one.createSuccesses.toLocaleString('en')}, and ${count(one.createFails, 'failure', 'failures')}`]]} />
        </Card>
        <Disks one={one} />
        <Card title="The machine">
          <Facts facts={[['ID', <CopyText text={one.id} />], ['Address', <CopyText text={one.address} whole />], ['Processor', `${one.machineInfo.cpuModelName || 'not told'} (${one.machineInfo.cpuArchitecture})`], ['Hearth', `${one.version}${one.commit && ` (${one.commit.slice(0, 10)})`}`], ['Registrations', String(one.generation)], ['Last report', one.lastHeartbeatAt ? <span title={when(one.lastHeartbeatAt)}>{ago(one.lastHeartbeatAt)}</span> : 'none yet'], ['Labels', Object.entries(one.labels).map(([name, value]) => `${name}=${value}`).join(' ') || 'none']]} />
        </Card>
      </div>
    </>
  );
}

const Disks = ({ one }: { one: Told }) =>
  one.metrics.disks.length === 0 ? null : (
    <Card title="Disks that hold sandboxes">
      <ul className="divide-y divide-line">
        {one.metrics.disks.map((disk) => (
          <li key={disk.mountPoint} className="flex flex-wrap items-center gap-4 px-4 py-3">
            <span className="min-w-0 flex-1 basis-56"><code className="block truncate text-[13px]">{disk.mountPoint}</code><span className="block truncate text-xs text-muted">{disk.filesystemType} on {disk.device}</span></span>
            <span className="flex flex-1 basis-56"><Meter label="Used" part={disk.totalBytes ? disk.usedBytes / disk.totalBytes : undefined} text={`${bytes(disk.usedBytes)} of ${bytes(disk.totalBytes)}`} /></span>
          </li>
        ))}
      </ul>
    </Card>
  );

function Actions({ one }: { one: Told }) {
  const navigate = useNavigate();
  const [draining, drain] = useState(false);
  const [doomed, doom] = useState(false);
  const touched = [['node', one.id], nodes.queryKey];
  const set = useChange((status: NodeStatus) => api.post(`/nodes/${enc(one.id)}`, { status }), (_, status) => (status === 'ready' ? 'The node takes sandboxes again' : 'The node takes no new sandboxes'), touched);
  const remove = useChange(() => api.delete(`/nodes/${enc(one.id)}`), `The node ${one.name} is forgotten`, [nodes.queryKey], () => navigate({ to: '/dashboard/nodes' }));
  const closed = one.status === 'draining' || one.status === 'standby';
  return (
    <>
      {closed && <Button look="primary" busy={set.isPending} onClick={() => set.mutate('ready')}><Check className="size-4" aria-hidden /> Uncordon</Button>}
      {one.status === 'ready' && <Button busy={set.isPending} onClick={() => set.mutate('draining')}><Ban className="size-4" aria-hidden /> Cordon</Button>}
      {(one.status === 'ready' || closed) && <Button onClick={() => drain(true)}><Hourglass className="size-4" aria-hidden /> Drain…</Button>}
      {one.status === 'unhealthy' && <Button look="danger" onClick={() => doom(true)}><Trash2 className="size-4" aria-hidden /> Remove</Button>}
      {draining && <Drain one={one} begin={() => set.mutate('draining')} busy={set.isPending} close={() => drain(false)} />}
      <Confirm open={doomed} onOpenChange={doom} title={`Remove ${one.name}?`} text="It is forgotten, for good if it does not start again. Paused sandboxes and builds on its disk cannot be reached without it." action="Remove" busy={remove.isPending} onConfirm={() => remove.mutate(undefined)} />
    </>
  );
}

// Begins a drain, and tells how far it is until nothing runs. It goes on without the page.
function Drain({ one, begin, busy, close }: { one: Told; begin: () => void; busy: boolean; close: () => void }) {
  const begun = one.status === 'draining';
  return (
    <Dialog open onOpenChange={close} title={`Drain ${one.name}`} description="No new sandboxes come, those that run go on until they end, are paused or killed.">
      <div className="space-y-4 text-sm">
        {!begun && <p>{one.sandboxCount ? `${count(one.sandboxCount, 'sandbox runs', 'sandboxes run')} there now. Nothing is killed or moved.` : 'None runs there now.'} Creates and forks are refused with 503 while no other node takes them.</p>}
        <p role="status">
          {begun && (one.outstandingWork ? <><Hourglass className="mr-1 inline size-4 text-warn" aria-hidden />Waiting for {count(one.outstandingWork, 'sandbox', 'sandboxes')} to end. This goes on when you leave the page.</> : <><Check className="mr-1 inline size-4 text-ok" aria-hidden />The node is drained: nothing runs there.</>)}
        </p>
        <div className="flex flex-wrap justify-end gap-2">
          <Button onClick={close}>{begun ? 'Close' : 'Cancel'}</Button>
          {!begun && <Button look="primary" busy={busy} onClick={begin}>Drain</Button>}
          {begun && one.outstandingWork > 0 && <Link to="/dashboard/sandboxes"><Button>To the sandboxes</Button></Link>}
        </div>
      </div>
    </Dialog>
  );
}
