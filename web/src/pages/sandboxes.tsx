import { useQuery } from '@tanstack/react-query';
import { Link, getRouteApi } from '@tanstack/react-router';
import { Plus } from 'lucide-react';
import { useMemo, useState } from 'react';
import { CreateSandbox } from './create-sandbox';
import { SandboxMenu } from './sandbox/actions';
import { Badge, Button, Card, Empty, Input, Loading, Meter, PageHead, Problem, Select, Snippets, stateTone } from '../components/ui';
import { ago, bytes, left, when } from '../lib/format';
import { liveMetrics, sandboxes } from '../lib/queries';
import { firstSandbox } from '../lib/snippets';
import type { Listed, Metric } from '../lib/types';

const route = getRouteApi('/dashboard/sandboxes');

export default function Sandboxes() {
  const { create } = route.useSearch();
  const navigate = route.useNavigate();
  const found = useQuery(sandboxes);
  const [state, setState] = useState('all');
  const [search, setSearch] = useState('');
  const running = useMemo(() => (found.data ?? []).filter((one) => one.state === 'running').map((one) => one.sandboxID).sort(), [found.data]);
  const metrics = useQuery(liveMetrics(running)).data ?? {};
  const wanted = search.trim().toLowerCase();
  const shown = found.data?.filter((one) => (state === 'all' || one.state === state) && matches(one, wanted));
  const open = (template: string | undefined) => navigate({ search: template ? { create: template } : {} });
  return (
    <>
      <PageHead title="Sandboxes">
        <Button look="primary" onClick={() => open('base')}><Plus className="size-4" aria-hidden /> Create a sandbox</Button>
      </PageHead>
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No sandboxes now">
            <p className="text-sm text-muted">Create one here, or from your program:</p>
            <Snippets snippets={firstSandbox} />
          </Empty>
        )}
        {!!found.data?.length && (
          <>
            <div className="flex flex-wrap gap-2 border-b border-line p-3">
              <Input aria-label="Search sandboxes" placeholder="ID, template, or metadata such as user=ada" value={search} onChange={(event) => setSearch(event.target.value)} className="min-w-0 flex-1 basis-56" />
              <div className="w-40"><Select label="State" value={state} onChange={setState} options={[{ value: 'all', label: 'Any state' }, { value: 'running', label: 'Running' }, { value: 'paused', label: 'Paused' }]} /></div>
            </div>
            <p className="sr-only" role="status">{shown?.length} sandboxes shown</p>
            {shown?.length === 0 && <Empty title="No sandbox fits"><Button onClick={() => { setSearch(''); setState('all'); }}>Show all</Button></Empty>}
            <ul className="divide-y divide-line">
              {shown?.map((one) => <Row key={one.sandboxID} one={one} metric={metrics[one.sandboxID]} />)}
            </ul>
          </>
        )}
      </Card>
      {create !== undefined && <CreateSandbox template={create} close={() => open(undefined)} />}
    </>
  );
}

function matches(one: Listed, wanted: string): boolean {
  if (!wanted) return true;
  const told = [one.sandboxID, one.templateID, one.alias ?? '', ...Object.entries(one.metadata ?? {}).map(([name, value]) => `${name}=${value}`)];
  return told.some((text) => text.toLowerCase().includes(wanted));
}

function Row({ one, metric }: { one: Listed; metric: Metric | undefined }) {
  const metadata = Object.entries(one.metadata ?? {});
  return (
    <li className="flex items-center gap-3 pr-2 hover:bg-raised">
      <Link to="/dashboard/sandboxes/$id" params={{ id: one.sandboxID }} className="grid min-w-0 flex-1 grid-cols-[minmax(0,1fr)_auto] items-center gap-x-4 gap-y-1 px-4 py-3 lg:grid-cols-[minmax(0,1.3fr)_6rem_minmax(0,1fr)_11rem]">
        <span className="min-w-0">
          <code className="block truncate font-medium">{one.sandboxID}</code>
          <span className="block truncate text-xs text-muted">{one.alias ?? one.templateID}{metadata.length > 0 && ` · ${metadata.map(([name, value]) => `${name}=${value}`).join(' ')}`}</span>
        </span>
        <span><Badge tone={stateTone(one.state)}>{one.state}</Badge></span>
        <span className="col-span-2 flex min-w-0 gap-4 lg:col-span-1">
          <Meter label="CPU" part={metric ? metric.cpuUsedPct / 100 : undefined} text={metric ? `${Math.round(metric.cpuUsedPct)} %` : `${one.cpuCount} vCPU`} />
          <Meter label="Mem" part={metric ? metric.memUsed / metric.memTotal : undefined} text={bytes(metric?.memUsed ?? one.memoryMB * 1024 * 1024)} />
          <Meter label="Disk" part={metric?.diskTotal ? metric.diskUsed / metric.diskTotal : undefined} text={bytes(metric?.diskUsed ?? one.diskSizeMB * 1024 * 1024)} />
        </span>
        <span className="col-span-2 text-xs text-muted lg:col-span-1" title={`${when(one.startedAt)} – ${when(one.endAt)}`}>
          started {ago(one.startedAt)}{one.state === 'running' && <><br className="hidden lg:inline" /><span className="lg:hidden"> · </span>ends {left(one.endAt)}</>}
        </span>
      </Link>
      <SandboxMenu one={one} />
    </li>
  );
}
