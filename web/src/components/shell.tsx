// What is around every page: who is signed in, the way to the others, the palette.
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Link, Outlet, useLocation, useNavigate } from '@tanstack/react-router';
import { clsx } from 'clsx';
import { Activity, Box, ChartColumn, Ellipsis, Flame, HardDrive, KeyRound, Layers, Lock, LogOut, Search, Server, Settings, Webhook } from 'lucide-react';
import { Suspense, lazy, useEffect, useState } from 'react';
import { api } from '../lib/api';
import { session } from '../lib/queries';
import { SignIn } from '../pages/sign-in';
import { IconButton, Loading, Menu, Problem } from './ui';

const Palette = lazy(() => import('./palette'));

// On a phone the row at the bottom has room for those that are `first`, and a menu has the rest.
const places = [
  { to: '/dashboard/sandboxes', label: 'Sandboxes', icon: Box, first: true },
  { to: '/dashboard/templates', label: 'Templates', icon: Layers, first: true },
  { to: '/dashboard/volumes', label: 'Volumes', icon: HardDrive, first: true },
  { to: '/dashboard/events', label: 'Events', icon: Activity, first: true },
  { to: '/dashboard/webhooks', label: 'Webhooks', icon: Webhook, first: false },
  { to: '/dashboard/usage', label: 'Usage', icon: ChartColumn, first: false },
  { to: '/dashboard/secrets', label: 'Secrets', icon: Lock, first: false },
  { to: '/dashboard/keys', label: 'Keys', icon: KeyRound, first: false },
  { to: '/dashboard/nodes', label: 'Nodes', icon: Server, first: false },
  { to: '/dashboard/settings', label: 'Settings', icon: Settings, first: false },
] as const;

export function useSignOut() {
  const client = useQueryClient();
  return async () => {
    try {
      await api.delete('/web/session');
    } finally {
      client.setQueryData(session.queryKey, null);
      // Nothing of this team stays behind for whoever signs in next.
      client.removeQueries({ predicate: (query) => query.queryKey[0] !== session.queryKey[0] });
    }
  };
}

const place = 'flex flex-1 flex-col items-center gap-1 rounded-md px-2 py-2 text-xs text-muted hover:text-text md:flex-none md:flex-row md:gap-3 md:text-sm md:hover:bg-raised';

function More() {
  const navigate = useNavigate();
  const { pathname } = useLocation();
  const rest = places.filter(({ first }) => !first);
  const here = rest.find(({ to }) => pathname.startsWith(to));
  return (
    <Menu
      trigger={<button type="button" className={clsx(place, 'md:hidden', here && '!text-accent font-medium')}><Ellipsis className="size-5" aria-hidden /> {here?.label ?? 'More'}</button>}
      items={rest.map(({ to, label, icon: Icon }) => ({ label, icon: <Icon className="size-4" aria-hidden />, onSelect: () => void navigate({ to }) }))}
    />
  );
}

export function Shell() {
  const signedIn = useQuery(session);
  const signOut = useSignOut();
  const [palette, setPalette] = useState(false);
  useEffect(() => {
    const open = (event: KeyboardEvent) => {
      // Ctrl K alone is the shell's while a terminal has the focus.
      const terminal = event.target instanceof Element && !!event.target.closest('.xterm');
      if ((event.ctrlKey || event.metaKey) && event.code === 'KeyK' && (event.altKey || !terminal)) {
        event.preventDefault();
        event.stopPropagation();
        setPalette((open) => !open);
      }
    };
    window.addEventListener('keydown', open, true);
    return () => window.removeEventListener('keydown', open, true);
  }, []);
  if (signedIn.isPending) return <Loading />;
  if (signedIn.error && signedIn.data === undefined) return <Problem error={signedIn.error} retry={() => signedIn.refetch()} />;
  if (!signedIn.data) return <SignIn />;
  return (
    <div className="flex min-h-dvh flex-col md:flex-row">
      <a href="#content" className="sr-only focus:not-sr-only focus:absolute focus:z-50 focus:bg-surface focus:p-3">To the content</a>
      <header className="flex items-center justify-between gap-2 border-b border-line bg-surface px-3 py-2 md:sticky md:top-0 md:h-dvh md:w-56 md:flex-col md:items-stretch md:justify-start md:border-r md:border-b-0 md:p-3">
        <Link to="/dashboard/sandboxes" className="flex items-center gap-2 rounded px-1 font-semibold md:px-2 md:py-2">
          <Flame className="size-5 text-accent" aria-hidden /> Hearth
        </Link>
        <button type="button" onClick={() => setPalette(true)} className="hidden items-center gap-2 rounded-md border border-line bg-bg px-3 py-2 text-left text-sm text-muted hover:text-text md:flex">
          <Search className="size-4" aria-hidden /> Go to…
          <kbd className="ml-auto rounded border border-line px-1.5 text-xs">Ctrl K</kbd>
        </button>
        <nav aria-label="Pages" className="fixed inset-x-0 bottom-0 z-30 flex justify-around border-t border-line bg-surface pb-[env(safe-area-inset-bottom)] md:static md:mt-3 md:flex-col md:justify-start md:gap-1 md:border-0 md:pb-0">
          {places.map(({ to, label, icon: Icon, first }) => (
            <Link key={to} to={to} className={clsx(place, !first && 'max-md:hidden')} activeProps={{ className: '!text-accent md:bg-accent-soft font-medium', 'aria-current': 'page' }}>
              <Icon className="size-5 md:size-4" aria-hidden /> {label}
            </Link>
          ))}
          <More />
        </nav>
        <div className="flex min-w-0 items-center gap-1 md:mt-auto md:border-t md:border-line md:pt-3">
          <span className="min-w-0 truncate px-2 text-sm text-muted" title={`Team ${signedIn.data.team.teamID}`}>{signedIn.data.team.name}</span>
          <span className="md:hidden"><IconButton label="Go to…" onClick={() => setPalette(true)}><Search className="size-4" /></IconButton></span>
          <IconButton label="Sign out" className="md:ml-auto" onClick={signOut}><LogOut className="size-4" /></IconButton>
        </div>
      </header>
      <main id="content" tabIndex={-1} className="min-w-0 flex-1 p-4 pb-24 outline-none md:p-6">
        <Suspense fallback={<Loading />}><Outlet /></Suspense>
      </main>
      {palette && <Suspense><Palette close={() => setPalette(false)} /></Suspense>}
    </div>
  );
}
