// Everything by keyboard: Ctrl K or ⌘ K.
import { useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { Command } from 'cmdk';
import { sandboxes, templateName, templates, volumes } from '../lib/queries';
import { setTheme } from '../lib/theme';
import { tabs } from '../router';
import { useSignOut } from './shell';

const item = 'flex items-center justify-between gap-4 rounded px-3 py-2 text-sm cursor-pointer';
const group = '[&_[cmdk-group-heading]]:px-3 [&_[cmdk-group-heading]]:pt-3 [&_[cmdk-group-heading]]:pb-1 [&_[cmdk-group-heading]]:text-xs [&_[cmdk-group-heading]]:text-muted';

export default function Palette({ close }: { close: () => void }) {
  const navigate = useNavigate();
  const signOut = useSignOut();
  const found = useQuery({ ...sandboxes, refetchInterval: false });
  const known = useQuery({ ...templates, refetchInterval: false });
  const kept = useQuery({ ...volumes, refetchInterval: false });
  const go = (act: () => unknown) => () => {
    close();
    void act();
  };
  const here = /^\/dashboard\/sandboxes\/([^/]+)/.exec(window.location.pathname)?.[1];
  return (
    <Command.Dialog open onOpenChange={(open) => !open && close()} label="Go to" overlayClassName="fixed inset-0 z-40 bg-black/50" contentClassName="fixed top-[12vh] left-1/2 z-50 w-[min(36rem,94vw)] -translate-x-1/2 overflow-hidden rounded-lg border border-line bg-surface shadow-xl">
      <Command.Input autoFocus placeholder="A page, a sandbox, a template, an action…" className="w-full border-b border-line bg-transparent px-4 py-3 text-sm outline-none placeholder:text-muted" />
      <Command.List className="max-h-[60vh] overflow-y-auto p-2">
        <Command.Empty className="p-4 text-sm text-muted">Nothing of that name.</Command.Empty>
        {here && (
          <Command.Group heading="This sandbox" className={group}>
            {tabs.map((tab) => (
              <Command.Item key={tab} className={item} value={`this ${tab}`} onSelect={go(() => navigate({ to: '/dashboard/sandboxes/$id', params: { id: here }, search: { tab } }))}>
                <span className="capitalize">{tab}</span>
              </Command.Item>
            ))}
          </Command.Group>
        )}
        <Command.Group heading="Pages and actions" className={group}>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/sandboxes', search: { create: 'base' } }))}>Create a sandbox…</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/sandboxes' }))}>Sandboxes</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/templates' }))}>Templates</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/volumes' }))}>Volumes</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/events' }))}>Events</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/webhooks' }))}>Webhooks</Command.Item>
          <Command.Item className={item} keywords={['metering', 'metrics', 'bill']} onSelect={go(() => navigate({ to: '/dashboard/usage' }))}>Usage</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/secrets' }))}>Secrets</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/keys' }))}>API keys</Command.Item>
          <Command.Item className={item} keywords={['machines', 'cluster', 'drain', 'cordon']} onSelect={go(() => navigate({ to: '/dashboard/nodes' }))}>Nodes</Command.Item>
          <Command.Item className={item} onSelect={go(() => navigate({ to: '/dashboard/settings' }))}>Settings</Command.Item>
          <Command.Item className={item} onSelect={go(() => setTheme('dark'))}>Dark theme</Command.Item>
          <Command.Item className={item} onSelect={go(() => setTheme('light'))}>Light theme</Command.Item>
          <Command.Item className={item} onSelect={go(() => setTheme('system'))}>Theme of the system</Command.Item>
          <Command.Item className={item} onSelect={go(signOut)}>Sign out</Command.Item>
        </Command.Group>
        {!!found.data?.length && (
          <Command.Group heading="Sandboxes" className={group}>
            {found.data.map((one) => (
              <Command.Item key={one.sandboxID} className={item} value={`${one.sandboxID} ${one.alias ?? ''} ${Object.values(one.metadata ?? {}).join(' ')}`} onSelect={go(() => navigate({ to: '/dashboard/sandboxes/$id', params: { id: one.sandboxID } }))}>
                <code>{one.sandboxID}</code><span className="text-muted">{one.alias ?? one.templateID} · {one.state}</span>
              </Command.Item>
            ))}
          </Command.Group>
        )}
        {!!known.data?.length && (
          <Command.Group heading="Templates" className={group}>
            {known.data.map((one) => (
              <Command.Item key={one.templateID} className={item} value={`template ${templateName(one)} ${one.templateID}`} onSelect={go(() => navigate({ to: '/dashboard/templates/$id', params: { id: one.templateID } }))}>
                {templateName(one)}
              </Command.Item>
            ))}
          </Command.Group>
        )}
        {!!kept.data?.length && (
          <Command.Group heading="Volumes" className={group}>
            {kept.data.filter((one) => !one.state).map((one) => (
              <Command.Item key={one.volumeID} className={item} value={`volume ${one.name} ${one.volumeID}`} onSelect={go(() => navigate({ to: '/dashboard/volumes/$id', params: { id: one.volumeID } }))}>
                {one.name}
              </Command.Item>
            ))}
          </Command.Group>
        )}
      </Command.List>
    </Command.Dialog>
  );
}
