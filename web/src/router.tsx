import { Outlet, createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from '@tanstack/react-router';
import { Shell } from './components/shell';
import { Button, Empty, Loading, Problem } from './components/ui';
import { Link } from '@tanstack/react-router';
import { type Range, ranges } from './lib/usage';

const root = createRootRoute({ component: Outlet });

const home = createRoute({
  getParentRoute: () => root,
  path: '/',
  beforeLoad: () => {
    throw redirect({ to: '/dashboard/sandboxes' });
  },
});

const shell = createRoute({ getParentRoute: () => root, path: '/dashboard', component: Shell });

const index = createRoute({
  getParentRoute: () => shell,
  path: '/',
  beforeLoad: () => {
    throw redirect({ to: '/dashboard/sandboxes' });
  },
});

const sandboxes = createRoute({
  getParentRoute: () => shell,
  path: '/sandboxes',
  validateSearch: (search: Record<string, unknown>): { create?: string } => (typeof search.create === 'string' ? { create: search.create } : {}),
  component: lazyRouteComponent(() => import('./pages/sandboxes')),
});

export const tabs = ['overview', 'metrics', 'logs', 'terminal', 'files', 'ports', 'network', 'snapshots', 'events'] as const;
export type Tab = (typeof tabs)[number];

const sandbox = createRoute({
  getParentRoute: () => shell,
  path: '/sandboxes/$id',
  validateSearch: (search: Record<string, unknown>): { tab?: Tab } => (tabs.includes(search.tab as Tab) ? { tab: search.tab as Tab } : {}),
  component: lazyRouteComponent(() => import('./pages/sandbox')),
});

// The link that E2B's command line prints.
const inspect = createRoute({
  getParentRoute: () => shell,
  path: '/inspect/sandbox/$id',
  beforeLoad: ({ params }) => {
    throw redirect({ to: '/dashboard/sandboxes/$id', params: { id: params.id.split('-')[0] as string }, replace: true });
  },
});

const templates = createRoute({ getParentRoute: () => shell, path: '/templates', component: lazyRouteComponent(() => import('./pages/templates')) });

const template = createRoute({
  getParentRoute: () => shell,
  path: '/templates/$id',
  validateSearch: (search: Record<string, unknown>): { build?: string } => (typeof search.build === 'string' ? { build: search.build } : {}),
  component: lazyRouteComponent(() => import('./pages/template')),
});

const volumes = createRoute({ getParentRoute: () => shell, path: '/volumes', component: lazyRouteComponent(() => import('./pages/volumes')) });
const volume = createRoute({ getParentRoute: () => shell, path: '/volumes/$id', component: lazyRouteComponent(() => import('./pages/volume')) });
const events = createRoute({ getParentRoute: () => shell, path: '/events', component: lazyRouteComponent(() => import('./pages/events')) });
const webhooks = createRoute({ getParentRoute: () => shell, path: '/webhooks', component: lazyRouteComponent(() => import('./pages/webhooks')) });
const webhook = createRoute({ getParentRoute: () => shell, path: '/webhooks/$id', component: lazyRouteComponent(() => import('./pages/webhook')) });
const nodes = createRoute({ getParentRoute: () => shell, path: '/nodes', component: lazyRouteComponent(() => import('./pages/nodes')) });
const node = createRoute({ getParentRoute: () => shell, path: '/nodes/$id', component: lazyRouteComponent(() => import('./pages/node')) });
const usage = createRoute({
  getParentRoute: () => shell,
  path: '/usage',
  validateSearch: (search: Record<string, unknown>): { range?: Range } => (ranges.includes(search.range as Range) ? { range: search.range as Range } : {}),
  component: lazyRouteComponent(() => import('./pages/usage')),
});
const secrets = createRoute({ getParentRoute: () => shell, path: '/secrets', component: lazyRouteComponent(() => import('./pages/secrets')) });
const keys = createRoute({ getParentRoute: () => shell, path: '/keys', component: lazyRouteComponent(() => import('./pages/keys')) });
const settings = createRoute({ getParentRoute: () => shell, path: '/settings', component: lazyRouteComponent(() => import('./pages/settings')) });

export const router = createRouter({
  routeTree: root.addChildren([home, shell.addChildren([index, sandboxes, sandbox, inspect, templates, template, volumes, volume, events, webhooks, webhook, usage, nodes, node, secrets, keys, settings])]),
  defaultPendingComponent: Loading,
  defaultErrorComponent: ({ error }) => <Problem error={error} retry={() => window.location.reload()} />,
  defaultNotFoundComponent: () => (
    <Empty page title="There is no such page">
      <Link to="/dashboard/sandboxes"><Button look="primary">To the sandboxes</Button></Link>
    </Empty>
  ),
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
