import { useQuery } from '@tanstack/react-query';
import { Link, getRouteApi, useNavigate } from '@tanstack/react-router';
import { Tabs } from 'radix-ui';
import { Suspense, lazy, useEffect, useState } from 'react';
import { Badge, Button, Card, Empty, Loading, PageHead, Problem, stateTone } from '../../components/ui';
import { ApiError } from '../../lib/api';
import { sandbox } from '../../lib/queries';
import type { Detail } from '../../lib/types';
import { type Tab, tabs } from '../../router';
import { SandboxMenu, useActions } from './actions';
import { SandboxEvents } from './events';
import { Network } from './network';
import { Overview } from './overview';
import { Metrics, SandboxLogs } from './telemetry';
import { Ports } from './ports';
import { Snapshots } from './snapshots';

const Terminal = lazy(() => import('./terminal'));
const Files = lazy(() => import('./files'));
const route = getRouteApi('/dashboard/sandboxes/$id');

export default function Sandbox() {
  const { id } = route.useParams();
  const { tab = 'overview' } = route.useSearch();
  const navigate = useNavigate();
  const found = useQuery(sandbox(id));
  // What was opened stays, so that a terminal runs on behind other tabs.
  const [opened, open] = useState<{ id: string; terminal: boolean }>({ id, terminal: false });
  if (tab === 'terminal' && !(opened.id === id && opened.terminal)) open({ id, terminal: true });
  const ready = !found.isPending;
  // On a narrow screen the row of tabs scrolls.
  useEffect(() => {
    if (ready) document.querySelector('[role=tab][data-state=active]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }, [tab, ready]);
  if (found.isPending) return <Loading />;
  const missing = found.error instanceof ApiError && found.error.status === 404;
  if (missing || !found.data) {
    return missing ? (
      <>
        <Empty page title="This sandbox is gone">
          <p className="text-sm text-muted">It was killed or has reached its end, or it belongs to another team.</p>
          <Link to="/dashboard/sandboxes"><Button look="primary">To the sandboxes</Button></Link>
        </Empty>
        <SandboxEvents id={id} />
      </>
    ) : <Problem error={found.error} retry={() => found.refetch()} />;
  }
  const one = found.data;
  const keepsTerminal = opened.id === id && opened.terminal;
  return (
    <>
      <p className="mb-1 text-sm"><Link to="/dashboard/sandboxes" className="text-muted hover:text-text">Sandboxes</Link></p>
      <PageHead title={<span className="inline-flex flex-wrap items-center gap-2"><code className="text-lg">{one.sandboxID}</code><Badge tone={stateTone(one.state)}>{one.state}</Badge></span>}>
        <SandboxMenu one={one} buttons onGone={() => navigate({ to: '/dashboard/sandboxes' })} />
      </PageHead>
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      <Tabs.Root value={tab} onValueChange={(value) => navigate({ to: '/dashboard/sandboxes/$id', params: { id }, search: { tab: value as Tab }, replace: true })}>
        <Tabs.List aria-label="Parts of the sandbox" className="mb-4 flex overflow-x-auto border-b border-line">
          {tabs.map((name) => (
            <Tabs.Trigger key={name} value={name} className="border-b-2 border-transparent px-3 py-2 focus-visible:-outline-offset-2 text-sm whitespace-nowrap text-muted capitalize hover:text-text data-[state=active]:border-accent data-[state=active]:font-medium data-[state=active]:text-text">
              {name}
            </Tabs.Trigger>
          ))}
        </Tabs.List>
        <Suspense fallback={<Loading />}>
          <Tabs.Content value="overview"><Overview one={one} /></Tabs.Content>
          <Tabs.Content value="metrics"><Metrics one={one} /></Tabs.Content>
          <Tabs.Content value="logs"><SandboxLogs one={one} /></Tabs.Content>
          <Tabs.Content value="terminal" forceMount={keepsTerminal || undefined} hidden={tab !== 'terminal'}>
            <Awake one={one}>{keepsTerminal && <Terminal key={id} id={id} shown={tab === 'terminal'} />}</Awake>
          </Tabs.Content>
          <Tabs.Content value="files"><Awake one={one}><Files key={id} id={id} /></Awake></Tabs.Content>
          <Tabs.Content value="ports"><Awake one={one}><Ports one={one} /></Awake></Tabs.Content>
          <Tabs.Content value="network"><Network key={id} one={one} /></Tabs.Content>
          <Tabs.Content value="snapshots"><Snapshots one={one} /></Tabs.Content>
          <Tabs.Content value="events"><SandboxEvents id={id} /></Tabs.Content>
        </Suspense>
      </Tabs.Root>
    </>
  );
}

// What asks the agent needs a sandbox that runs.
function Awake({ one, children }: { one: Detail; children: React.ReactNode }) {
  const { resume } = useActions(one);
  if (one.state === 'running') return children;
  return (
    <Card>
      <Empty title="The sandbox is paused">
        <p className="text-sm text-muted">Its programs and files are there again once it is resumed.</p>
        <Button look="primary" busy={resume.isPending} onClick={() => resume.mutate(undefined)}>Resume</Button>
      </Empty>
    </Card>
  );
}
