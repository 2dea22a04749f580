// Metrics and logs, as they come.
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { Chart } from '../../components/chart';
import { Logs } from '../../components/logs';
import { Card, Input, Loading, Problem, Select } from '../../components/ui';
import { api, enc } from '../../lib/api';
import { bytes } from '../../lib/format';
import type { Detail, LogEntry, Metric } from '../../lib/types';

const ranges = [
  { value: '300', label: 'Last 5 minutes' },
  { value: '3600', label: 'Last hour' },
  { value: '86400', label: 'Last day' },
];

export function Metrics({ one }: { one: Detail }) {
  const [range, setRange] = useState('300');
  const found = useQuery({
    queryKey: ['samples', one.sandboxID, range],
    queryFn: () => {
      const now = Math.floor(Date.now() / 1000);
      return api.get<Metric[]>(`/sandboxes/${enc(one.sandboxID)}/metrics?start=${now - Number(range)}&end=${now}`);
    },
    refetchInterval: one.state === 'running' ? 5000 : false,
  });
  const samples = [...(found.data ?? [])].sort((a, b) => a.timestampUnix - b.timestampUnix);
  const last = samples.at(-1);
  const of = (value: (sample: Metric) => number) => samples.map((sample) => ({ time: sample.timestampUnix, value: value(sample) }));
  return (
    <Card title="Metrics" actions={<div className="w-44"><Select label="Range" value={range} onChange={setRange} options={ranges} /></div>}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data && (
        <div className="divide-y divide-line">
          <Chart title={`CPU (${one.cpuCount} vCPU)`} points={of((sample) => sample.cpuUsedPct)} top={100} format={(value) => `${value.toFixed(1)} %`} />
          <Chart title="Memory" points={of((sample) => sample.memUsed)} top={last?.memTotal} format={bytes} />
          <Chart title="Disk" points={of((sample) => sample.diskUsed)} top={last?.diskTotal} format={bytes} />
        </div>
      )}
    </Card>
  );
}

const MOST = 1000;

export function SandboxLogs({ one }: { one: Detail }) {
  const [level, setLevel] = useState('debug');
  const [search, setSearch] = useState('');
  const found = useQuery({
    queryKey: ['logs', one.sandboxID, level, search],
    queryFn: () => {
      const query = new URLSearchParams({ limit: String(MOST), direction: 'backward', level, ...(search ? { search } : {}) });
      return api.get<{ logs: LogEntry[] }>(`/v2/sandboxes/${enc(one.sandboxID)}/logs?${query}`);
    },
    placeholderData: (before: { logs: LogEntry[] } | undefined) => before,
    refetchInterval: one.state === 'running' ? 1500 : false,
  });
  const lines = [...(found.data?.logs ?? [])].reverse();
  return (
    <Card
      title="Logs"
      actions={
        <>
          <div className="w-40"><Input aria-label="Search the logs" placeholder="Search" value={search} onChange={(event) => setSearch(event.target.value)} /></div>
          <div className="w-36"><Select label="Least level" value={level} onChange={setLevel} options={[{ value: 'debug', label: 'All' }, { value: 'info', label: 'Info and up' }, { value: 'warn', label: 'Warnings' }, { value: 'error', label: 'Errors' }]} /></div>
        </>
      }
    >
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.isPending ? <Loading /> : <Logs label="Logs of the sandbox" lines={lines} empty={search || level !== 'debug' ? 'No line fits.' : 'Nothing yet: what programs that were started through the agent write shows here.'} />}
      {lines.length >= MOST && <p className="border-t border-line px-4 py-2 text-xs text-muted">The newest {MOST} lines. Search to find older ones.</p>}
    </Card>
  );
}
