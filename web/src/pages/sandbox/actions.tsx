// What can be done to a sandbox, wherever it is shown.
import { useNavigate } from '@tanstack/react-router';
import { Clock, Copy, EllipsisVertical, GitFork, Pause, Play, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Button, Confirm, Dialog, Field, IconButton, Input, Menu, type MenuItem, copy } from '../../components/ui';
import { api, enc } from '../../lib/api';
import { sandboxes, useChange } from '../../lib/queries';
import type { Listed } from '../../lib/types';

interface Fork {
  sandbox?: { sandboxID: string };
  error?: { message: string };
}

export function useActions(one: Listed, onGone?: () => void) {
  const navigate = useNavigate();
  const path = `/sandboxes/${enc(one.sandboxID)}`;
  const touched = [sandboxes.queryKey, ['sandbox', one.sandboxID]];
  const pause = useChange(() => api.post(`${path}/pause`), 'The sandbox is paused', touched);
  const resume = useChange(() => api.post(`${path}/connect`, { timeout: 300 }), 'The sandbox runs again, for five minutes', touched);
  const extend = useChange((minutes: number) => api.post(`${path}/timeout`, { timeout: Math.round(minutes * 60) }), (_, minutes) => `The sandbox ends in ${minutes} minutes`, touched);
  const fork = useChange(
    async () => {
      const [result] = await api.post<Fork[]>(`${path}/fork`, { count: 1, timeout: 300 });
      if (!result?.sandbox) throw new Error(result?.error?.message ?? 'The fork was not made');
      return result.sandbox.sandboxID;
    },
    (id) => `${id} is a copy of it, for five minutes`,
    touched,
    (id) => navigate({ to: '/dashboard/sandboxes/$id', params: { id } }),
  );
  const kill = useChange(() => api.delete(path), 'The sandbox is gone', [sandboxes.queryKey], onGone);
  return { pause, resume, extend, fork, kill, busy: [pause, resume, fork, kill].some((change) => change.isPending) };
}

export function SandboxMenu({ one, buttons, onGone }: { one: Listed; buttons?: boolean; onGone?: () => void }) {
  const { pause, resume, extend, fork, kill, busy } = useActions(one, onGone);
  const [asking, ask] = useState<'kill' | 'extend' | null>(null);
  const [minutes, setMinutes] = useState('30');
  const running = one.state === 'running';
  const items: MenuItem[] = [
    ...(running
      ? [
          { label: 'Pause', icon: <Pause className="size-4" />, onSelect: () => pause.mutate(undefined) },
          { label: 'Set the end…', icon: <Clock className="size-4" />, onSelect: () => ask('extend') },
          { label: 'Fork', icon: <GitFork className="size-4" />, onSelect: () => fork.mutate(undefined) },
        ]
      : [{ label: 'Resume', icon: <Play className="size-4" />, onSelect: () => resume.mutate(undefined) }]),
    { label: 'Copy the ID', icon: <Copy className="size-4" />, onSelect: () => void copy(one.sandboxID) },
    { label: 'Kill…', icon: <Trash2 className="size-4" />, danger: true, onSelect: () => ask('kill') },
  ];
  return (
    <>
      {buttons && (running ? (
        <>
          <Button busy={pause.isPending} disabled={busy} onClick={() => pause.mutate(undefined)}><Pause className="size-4" aria-hidden /> Pause</Button>
          <Button onClick={() => ask('extend')}><Clock className="size-4" aria-hidden /> Set the end</Button>
        </>
      ) : (
        <Button look="primary" busy={resume.isPending} disabled={busy} onClick={() => resume.mutate(undefined)}><Play className="size-4" aria-hidden /> Resume</Button>
      ))}
      <Menu trigger={<IconButton label={`Actions for ${one.sandboxID}`} disabled={busy}><EllipsisVertical className="size-4" /></IconButton>} items={items} />
      <Confirm open={asking === 'kill'} onOpenChange={() => ask(null)} title="Kill the sandbox?" text={<>Everything in <code>{one.sandboxID}</code> is lost: its programs, memory and files. This cannot be undone.</>} action="Kill" busy={kill.isPending} onConfirm={() => kill.mutate(undefined, { onSettled: () => ask(null) })} />
      {asking === 'extend' && (
        <Dialog open onOpenChange={() => ask(null)} title="Set the end" description="From now on; the earlier end no longer counts.">
          <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); extend.mutate(Number(minutes), { onSuccess: () => ask(null) }); }}>
            <Field label="Minutes from now">{(id) => <Input id={id} type="number" min="0.5" step="0.5" required autoFocus value={minutes} onChange={(event) => setMinutes(event.target.value)} />}</Field>
            <div className="flex justify-end gap-2"><Button onClick={() => ask(null)}>Cancel</Button><Button type="submit" look="primary" busy={extend.isPending}>Set</Button></div>
          </form>
        </Dialog>
      )}
    </>
  );
}
