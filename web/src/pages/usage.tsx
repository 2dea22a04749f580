// What the team used: processors and memory over time, sandboxes at once, and by sandbox.
import { keepPreviousData, useMutation, useQueries, useQuery } from '@tanstack/react-query';
import { Link, getRouteApi } from '@tanstack/react-router';
import { Download } from 'lucide-react';
import { useEffect, useState } from 'react';
import { toast } from 'sonner';
import { Bars } from '../components/bars';
import { Chart } from '../components/chart';
import { Button, Card, Empty, Facts, Loading, PageHead, Problem, Select, Snippets, errorText } from '../components/ui';
import { saveAs } from '../lib/download';
import { count, when } from '../lib/format';
import { USAGE_MOST, sandboxUsage, session, teamMaximum, teamMetrics, teamUsage } from '../lib/queries';
import { readUsage } from '../lib/snippets';
import type { SandboxUsage, TeamMaximum } from '../lib/types';
import { type Range, type Span, hours, isOver, partName, parts, rangeNames, ranges, spanOf, usageCsv } from '../lib/usage';

const route = getRouteApi('/dashboard/usage');

// The time, to the minute: a page that stays open goes on to the next part.
function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 60_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

export default function UsagePage() {
  const { range = 'month' } = route.useSearch();
  const navigate = route.useNavigate();
  const now = useNow();
  const span = spanOf(range, now);
  return (
    <>
      <PageHead title="Usage">
        <div className="w-48"><Select label="Time" value={range} onChange={(chosen) => navigate({ search: { range: chosen as Range } })} options={ranges.map((value) => ({ value, label: rangeNames[value] }))} /></div>
      </PageHead>
      <div className="space-y-4">
        <Used range={range} span={span} now={now} />
        <AtOnce span={span} />
        <BySandbox range={range} span={span} />
        <Card title="From a program, and for all teams">
          <p className="px-4 pt-4 text-sm text-muted">How much a team may use (sandboxes at once, processors, memory, disk) the operator sets, on the server.</p>
          <div className="p-4"><Snippets snippets={readUsage} /></div>
        </Card>
      </div>
    </>
  );
}

function Used({ range, span, now }: { range: Range; span: Span; now: number }) {
  const whole = useQuery({ ...teamUsage(span, isOver(span, now)), placeholderData: keepPreviousData });
  const pieces = parts(range, span, now);
  const found = useQueries({ queries: pieces.map((part) => teamUsage(part, isOver(part, now))) });
  const failed = found.find(({ error }) => error);
  const bars = (value: (used: { vcpuSeconds: number; memoryGiBSeconds: number }) => number) =>
    pieces.map((part, at) => ({ name: partName(range, part), value: found[at]?.data && value(found[at].data) }));
  return (
    <Card title={rangeNames[range]}>
      {whole.isPending && <Loading />}
      {(whole.error ?? failed?.error) && <Problem error={whole.error ?? failed?.error} retry={() => { void whole.refetch(); found.forEach((one) => one.error && void one.refetch()); }} />}
      {whole.data && (
        <>
          <Facts facts={[['vCPU hours', hours(whole.data.vcpuSeconds)], ['GiB hours of memory', hours(whole.data.memoryGiBSeconds)], ['Executions', <span title="Times that sandboxes ran without a pause">{whole.data.executions.toLocaleString('en')}</span>]]} />
          <div className="grid divide-line border-t border-line max-lg:divide-y lg:grid-cols-2 lg:divide-x">
            <Bars title={range === 'day' ? 'vCPU hours by the hour (UTC)' : 'vCPU hours by day'} bars={bars((used) => used.vcpuSeconds)} format={hours} />
            <Bars title={range === 'day' ? 'GiB hours by the hour (UTC)' : 'GiB hours by day'} bars={bars((used) => used.memoryGiBSeconds)} format={hours} />
          </div>
        </>
      )}
    </Card>
  );
}

const perMinute = (perSecond: number) => `${(perSecond * 60).toFixed(1)} a minute`;
const most = (found: TeamMaximum | undefined, format: (value: number) => string) => (found ? <span title={when(new Date(found.timestampUnix * 1000).toISOString())}>{found.value ? `${format(found.value)}, ${when(new Date(found.timestampUnix * 1000).toISOString())}` : 'none'}</span> : '…');

function AtOnce({ span }: { span: Span }) {
  const team = useQuery(session).data?.team.teamID ?? '';
  const samples = useQuery({ ...teamMetrics(team, span), placeholderData: keepPreviousData, enabled: !!team });
  const peak = useQuery({ ...teamMaximum(team, 'concurrent_sandboxes', span), enabled: !!team });
  const rate = useQuery({ ...teamMaximum(team, 'sandbox_start_rate', span), enabled: !!team });
  const error = samples.error ?? peak.error ?? rate.error;
  return (
    <Card title="Sandboxes at once">
      {samples.isPending && <Loading />}
      {error && <Problem error={error} retry={() => [samples, peak, rate].forEach((one) => void one.refetch())} />}
      {samples.data && (
        <>
          <Facts facts={[['Most at once', most(peak.data, (value) => count(value, 'sandbox', 'sandboxes'))], ['Most starts', most(rate.data, perMinute)]]} />
          <div className="grid divide-line border-t border-line max-lg:divide-y lg:grid-cols-2 lg:divide-x">
            <Chart title="Running" points={samples.data.map((one) => ({ time: one.timestampUnix, value: one.concurrentSandboxes }))} format={String} />
            <Chart title="Started or resumed" points={samples.data.map((one) => ({ time: one.timestampUnix, value: one.sandboxStartRate }))} format={perMinute} />
          </div>
        </>
      )}
    </Card>
  );
}

// Those that used the most; the file has all.
const SHOWN = 50;

function BySandbox({ range, span }: { range: Range; span: Span }) {
  const found = useQuery({ ...sandboxUsage(span), placeholderData: keepPreviousData });
  const file = useMutation({
    mutationFn: () => usageCsv(span),
    onSuccess: (text) => saveAs(`usage-${range}-${new Date(span.start * 1000).toISOString().slice(0, 10)}.csv`, new Blob([text], { type: 'text/csv' })),
    onError: (error) => toast.error(errorText(error), { duration: 10_000 }),
  });
  const all = found.data ?? [];
  const shown = [...all].sort((a, b) => b.vcpuSeconds - a.vcpuSeconds).slice(0, SHOWN);
  return (
    <Card title="By sandbox" actions={<Button busy={file.isPending} disabled={!all.length} onClick={() => file.mutate()}><Download className="size-4" aria-hidden /> Download CSV</Button>}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data?.length === 0 && (
        <Empty title="Nothing was used in this time">
          <p className="text-sm text-muted">Running sandboxes count, paused ones do not. Choose another time above, or create one.</p>
          <Link to="/dashboard/sandboxes" search={{ create: 'base' }}><Button look="primary">Create a sandbox</Button></Link>
        </Empty>
      )}
      {shown.length > 0 && <Table rows={shown} />}
      {all.length > SHOWN && <p className="border-t border-line px-4 py-2 text-xs text-muted">The {SHOWN} that used the most processor time{all.length >= USAGE_MOST ? ` among the first ${USAGE_MOST.toLocaleString('en')}` : ` of ${all.length.toLocaleString('en')}`}. The CSV file has all.</p>}
    </Card>
  );
}

function Table({ rows }: { rows: SandboxUsage[] }) {
  const number = 'px-4 py-2 text-right tabular-nums whitespace-nowrap';
  return (
    <div className="overflow-x-auto" role="region" aria-label="What each sandbox used" tabIndex={0}>
      <table className="w-full text-sm">
        <thead className="text-xs text-muted">
          <tr className="border-b border-line">
            <th scope="col" className="px-4 py-2 text-left font-medium">Sandbox</th>
            <th scope="col" className={`${number} font-medium`}>vCPU hours</th>
            <th scope="col" className={`${number} font-medium`}>GiB hours</th>
            <th scope="col" className={`${number} font-medium`}>Executions</th>
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {rows.map((row) => (
            <tr key={row.sandboxID}>
              <td className="px-4 py-2"><Link to="/dashboard/sandboxes/$id" params={{ id: row.sandboxID }} className="text-accent hover:underline"><code className="text-[13px]">{row.sandboxID}</code></Link></td>
              <td className={number}>{hours(row.vcpuSeconds)}</td>
              <td className={number}>{hours(row.memoryGiBSeconds)}</td>
              <td className={number}>{row.executions.toLocaleString('en')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
