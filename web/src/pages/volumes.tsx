import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { Copy, EllipsisVertical, HardDrive, Plus, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { Badge, Button, Card, Confirm, CopyText, Dialog, Empty, Field, IconButton, Input, Loading, Menu, PageHead, Problem, Snippets } from '../components/ui';
import { api, enc } from '../lib/api';
import { useChange, volumes } from '../lib/queries';
import { firstVolume } from '../lib/snippets';
import type { Volume } from '../lib/types';

export default function Volumes() {
  const found = useQuery(volumes);
  const [making, make] = useState<'new' | Volume | null>(null);
  const [doomed, doom] = useState<Volume | null>(null);
  const create = <Button look="primary" onClick={() => make('new')}><Plus className="size-4" aria-hidden /> New volume</Button>;
  return (
    <>
      <PageHead title="Volumes">{!!found.data?.length && create}</PageHead>
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No volumes yet">
            <p className="text-sm text-muted">A volume is a directory tree that outlives sandboxes and is mounted by many of them at once. Make one here, or from your program:</p>
            {create}
            <Snippets snippets={firstVolume('data')} />
          </Empty>
        )}
        {!!found.data?.length && (
          <ul className="divide-y divide-line">
            {found.data.map((volume) => (
              <li key={volume.volumeID} className="flex items-center gap-2 pr-2 hover:bg-raised">
                <Name volume={volume} />
                <Menu
                  trigger={<IconButton label={`Actions for ${volume.name}`}><EllipsisVertical className="size-4" /></IconButton>}
                  items={[
                    { label: 'Copy…', icon: <Copy className="size-4" />, disabled: !!volume.state, onSelect: () => make(volume) },
                    { label: 'Delete…', icon: <Trash2 className="size-4" />, danger: true, disabled: volume.state === 'making', onSelect: () => doom(volume) },
                  ]}
                />
              </li>
            ))}
          </ul>
        )}
      </Card>
      {making && <Make of={making} close={() => make(null)} />}
      <DeleteVolume volume={doomed} close={() => doom(null)} />
    </>
  );
}

function Name({ volume }: { volume: Volume }) {
  const inside = (
    <>
      <HardDrive className="size-4 shrink-0 text-accent" aria-hidden />
      <span className="min-w-0 flex-1">
        <span className="block truncate font-medium">{volume.name}</span>
        <code className="block truncate text-xs text-muted">{volume.volumeID}</code>
        {volume.state === 'failed' && <span className="block text-xs text-bad">It could not be copied whole: the room ran out, or the daemon ended. Delete it and copy again.</span>}
      </span>
      {volume.state && <Badge tone={volume.state === 'failed' ? 'bad' : 'accent'}>{volume.state === 'failed' ? 'copy failed' : 'being copied'}</Badge>}
    </>
  );
  const look = 'flex min-w-0 flex-1 items-center gap-3 px-4 py-3';
  // There is nothing to see in it before all of it is there.
  return volume.state ? <div className={look}>{inside}</div> : <Link to="/dashboard/volumes/$id" params={{ id: volume.volumeID }} className={look}>{inside}</Link>;
}

function Make({ of, close }: { of: 'new' | Volume; close: () => void }) {
  const [name, setName] = useState(of === 'new' ? '' : `${of.name}-copy`);
  const save = useChange(
    () => (of === 'new' ? api.post('/volumes', { name }) : api.post(`/volumes/${enc(of.volumeID)}/copy`, { name })),
    of === 'new' ? `The volume ${name} is made` : `${name} is being copied`,
    [volumes.queryKey],
    close,
  );
  return (
    <Dialog open onOpenChange={close} title={of === 'new' ? 'New volume' : `Copy ${of.name}`} description={of === 'new' ? 'Empty. Sandboxes mount it by its name.' : 'What sandboxes write meanwhile may be in the copy or not.'}>
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        <Field label="Name" hint="Letters, digits, “-” and “_”">{(id) => <Input id={id} required autoFocus maxLength={128} pattern="[a-zA-Z0-9_\-]+" value={name} onChange={(event) => setName(event.target.value)} />}</Field>
        {save.error && <div className="-mx-4"><Problem error={save.error} /></div>}
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending}>{of === 'new' ? 'Create' : 'Copy'}</Button></div>
      </form>
    </Dialog>
  );
}

export function DeleteVolume({ volume, close, then }: { volume: Volume | null; close: () => void; then?: () => void }) {
  const remove = useChange((one: Volume) => api.delete(`/volumes/${enc(one.volumeID)}`), (_, one) => `The volume ${one.name} is deleted`, [volumes.queryKey], () => { close(); then?.(); });
  return (
    <Confirm
      open={!!volume}
      onOpenChange={close}
      title={`Delete ${volume?.name}?`}
      text={<>All its files go with it. Sandboxes that have it mounted get the error “stale file handle” for whatever they do in it. This cannot be undone.{volume && <span className="mt-2 block"><CopyText text={volume.volumeID} /></span>}</>}
      action="Delete"
      busy={remove.isPending}
      onConfirm={() => volume && remove.mutate(volume)}
    />
  );
}
