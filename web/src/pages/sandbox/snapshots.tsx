import { useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { Camera, History, Play, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Button, Card, Confirm, CopyText, Dialog, Empty, Field, IconButton, Input, Loading, Problem } from '../../components/ui';
import { api, enc } from '../../lib/api';
import { snapshots, useChange } from '../../lib/queries';
import type { Detail, Snapshot } from '../../lib/types';

export function Snapshots({ one }: { one: Detail }) {
  const navigate = useNavigate();
  const found = useQuery(snapshots(one.sandboxID));
  const [naming, name] = useState<string | null>(null);
  const [asking, ask] = useState<{ what: 'rollback' | 'delete'; of: Snapshot } | null>(null);
  const touched = [['snapshots', one.sandboxID], ['sandbox', one.sandboxID]];
  const path = `/sandboxes/${enc(one.sandboxID)}`;
  const take = useChange(() => api.post(`${path}/snapshots`, naming?.trim() ? { name: naming.trim() } : {}), 'The snapshot is taken', touched, () => name(null));
  const act = useChange(
    ({ what, of }: NonNullable<typeof asking>) =>
      what === 'rollback' ? api.post(`${path}/rollback`, { snapshotID: of.snapshotID }) : api.delete(`/templates/${enc(of.snapshotID)}`),
    (_, { what }) => (what === 'rollback' ? 'The sandbox is as it was then' : 'The snapshot is deleted'),
    touched,
    () => ask(null),
  );
  const button = <Button look="primary" disabled={one.state !== 'running'} onClick={() => name('')}><Camera className="size-4" aria-hidden /> Take a snapshot</Button>;
  return (
    <Card title="Snapshots" actions={!!found.data?.length && button}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data?.length === 0 && (
        <Empty title="No snapshots yet">
          <p className="text-sm text-muted">A snapshot keeps memory, programs and files as they are now, while the sandbox runs on. Go back to it, or create other sandboxes from it.</p>
          {button}
          {one.state !== 'running' && <p className="text-sm text-muted">Resume the sandbox first.</p>}
        </Empty>
      )}
      <ul className="divide-y divide-line">
        {found.data?.map((each) => (
          <li key={each.snapshotID} className="flex flex-wrap items-center gap-2 px-4 py-2">
            <span className="min-w-0 flex-1 basis-56">
              {each.names.length > 0 && <span className="block truncate font-medium">{each.names.join(', ')}</span>}
              <CopyText text={each.snapshotID} className="text-muted" />
            </span>
            <Button onClick={() => navigate({ to: '/dashboard/sandboxes', search: { create: each.snapshotID } })}><Play className="size-4" aria-hidden /> New sandbox</Button>
            <Button onClick={() => ask({ what: 'rollback', of: each })}><History className="size-4" aria-hidden /> Roll back</Button>
            <IconButton label={`Delete the snapshot ${each.names[0] ?? each.snapshotID}`} onClick={() => ask({ what: 'delete', of: each })}><Trash2 className="size-4" /></IconButton>
          </li>
        ))}
      </ul>
      {naming !== null && (
        <Dialog open onOpenChange={() => name(null)} title="Take a snapshot" description="The sandbox pauses for a moment and runs on.">
          <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); take.mutate(undefined); }}>
            <Field label="Name (optional)" hint="Small letters, digits, “-” and “_”">{(id) => <Input id={id} autoFocus pattern="[a-z0-9_\-]+" value={naming} onChange={(event) => name(event.target.value)} />}</Field>
            <div className="flex justify-end gap-2"><Button onClick={() => name(null)}>Cancel</Button><Button type="submit" look="primary" busy={take.isPending}>Take it</Button></div>
          </form>
        </Dialog>
      )}
      <Confirm
        open={!!asking}
        onOpenChange={() => ask(null)}
        title={asking?.what === 'rollback' ? 'Roll back?' : 'Delete the snapshot?'}
        text={asking?.what === 'rollback' ? 'All that the sandbox did since the snapshot is lost. Take another snapshot first if you want to keep it.' : 'Nothing can be created from it any more. This cannot be undone.'}
        action={asking?.what === 'rollback' ? 'Roll back' : 'Delete'}
        busy={act.isPending}
        onConfirm={() => asking && act.mutate(asking)}
      />
    </Card>
  );
}
