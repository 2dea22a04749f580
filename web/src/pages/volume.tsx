// One volume: how much it holds, its files, how it is mounted.
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Link, getRouteApi, useNavigate } from '@tanstack/react-router';
import { Download, EllipsisVertical, File, Folder, FolderPlus, Link2, Trash2, Upload } from 'lucide-react';
import { useRef, useState } from 'react';
import { toast } from 'sonner';
import { PathBar, join, parent } from '../components/path';
import { Button, Card, Confirm, CopyText, Dialog, Empty, Facts, Field, IconButton, Input, Loading, Menu, PageHead, Problem, Snippets, errorText } from '../components/ui';
import { ApiError } from '../lib/api';
import { saveAs } from '../lib/download';
import { bytes, count, when } from '../lib/format';
import { usage, useChange, volumes } from '../lib/queries';
import { mountVolume } from '../lib/snippets';
import type { Volume as Told, VolumeEntry } from '../lib/types';
import { content } from '../lib/volume';
import { DeleteVolume } from './volumes';

const route = getRouteApi('/dashboard/volumes/$id');

export default function Volume() {
  const { id } = route.useParams();
  const navigate = useNavigate();
  const found = useQuery(volumes);
  const [doomed, doom] = useState<Told | null>(null);
  if (found.isPending) return <Loading />;
  if (!found.data) return <Problem error={found.error} retry={() => found.refetch()} />;
  const one = found.data.find(({ volumeID }) => volumeID === id);
  if (!one || one.state) {
    return (
      <Empty page title={one ? 'This volume is not ready' : 'This volume is gone'}>
        <p className="text-sm text-muted">{one ? 'It is a copy of which not all is there.' : 'It was deleted, or it belongs to another team.'}</p>
        <Link to="/dashboard/volumes"><Button look="primary">To the volumes</Button></Link>
      </Empty>
    );
  }
  return (
    <>
      <p className="mb-1 text-sm"><Link to="/dashboard/volumes" className="text-muted hover:text-text">Volumes</Link></p>
      <PageHead title={one.name}><Button look="danger" onClick={() => doom(one)}><Trash2 className="size-4" aria-hidden /> Delete</Button></PageHead>
      <div className="space-y-4">
        <Card><Facts facts={[['ID', <CopyText text={one.volumeID} />], ['Mounted as', <CopyText text={one.name} />], ['Holds', <Usage id={id} />]]} /></Card>
        <Files key={id} id={id} />
        <Card title="Mount it"><div className="p-4"><Snippets snippets={mountVolume(one.name)} /></div></Card>
      </div>
      <DeleteVolume volume={doomed} close={() => doom(null)} then={() => navigate({ to: '/dashboard/volumes' })} />
    </>
  );
}

function Usage({ id }: { id: string }) {
  const found = useQuery(usage(id));
  if (found.isPending) return <span className="text-muted">counting…</span>;
  if (!found.data) return <span className="text-bad">{errorText(found.error)} <Button className="ml-2" onClick={() => found.refetch()}>Try again</Button></span>;
  return <span>{bytes(found.data.bytes)} on disk, {count(found.data.entries, 'entry', 'entries')}</span>;
}

// The page has to read a file before it can hand it on: only a request of its own carries
// the token.
const MOST_BYTES = 512 * 1024 * 1024;

async function download(id: string, entry: VolumeEntry) {
  if (entry.size > MOST_BYTES) {
    toast.error(`A browser reads at most ${bytes(MOST_BYTES)} from a volume: use Volume.read_file of an SDK, or a sandbox that mounts it`, { duration: 10_000 });
    return;
  }
  try {
    saveAs(entry.name, await content.read(id, entry.path));
  } catch (error) {
    toast.error(errorText(error), { duration: 10_000 });
  }
}

const icons = { directory: Folder, file: File, symlink: Link2, unknown: File };
const isFolder = (entry: VolumeEntry) => entry.type === 'directory';

function Files({ id }: { id: string }) {
  const client = useQueryClient();
  const [folder, setFolder] = useState('/');
  const [naming, name] = useState(false);
  const [doomed, doom] = useState<VolumeEntry | null>(null);
  const [replacing, replace] = useState<File[]>([]);
  const [dropping, setDropping] = useState(false);
  const [sending, setSending] = useState<string | null>(null);
  const picker = useRef<HTMLInputElement>(null);
  const key = ['volume-files', id, folder];
  const touched = [key, usage(id).queryKey];
  const found = useQuery({ queryKey: key, queryFn: () => content.list(id, folder), refetchInterval: 10_000 });
  const entries = [...(found.data ?? [])].sort((a, b) => Number(isFolder(b)) - Number(isFolder(a)) || a.name.localeCompare(b.name));
  const remove = useChange((entry: VolumeEntry) => content.remove(id, entry.path), (_, entry) => `${entry.name} is deleted`, touched, () => doom(null));

  const upload = async (chosen: File[], force = false) => {
    const there: File[] = [];
    for (const [at, file] of chosen.entries()) {
      setSending(`Uploading ${file.name} (${at + 1} of ${chosen.length})`);
      try {
        await content.write(id, join(folder, file.name), file, force);
        toast.success(`${file.name} is there`);
      } catch (error) {
        if (error instanceof ApiError && error.status === 409 && !force) there.push(file);
        else toast.error(`${file.name}: ${errorText(error)}`, { duration: 10_000 });
      }
    }
    setSending(null);
    replace(there);
    if (picker.current) picker.current.value = '';
    touched.forEach((queryKey) => void client.invalidateQueries({ queryKey }));
  };

  return (
    <Card
      title={<PathBar folder={folder} go={setFolder} />}
      actions={
        <>
          <IconButton label="New folder" onClick={() => name(true)}><FolderPlus className="size-4" /></IconButton>
          <Button busy={!!sending} onClick={() => picker.current?.click()}><Upload className="size-4" aria-hidden /> Upload</Button>
          <input ref={picker} type="file" multiple hidden aria-label="Files to upload" onChange={(event) => upload([...(event.target.files ?? [])])} />
        </>
      }
    >
      <div
        onDragOver={(event) => { event.preventDefault(); setDropping(true); }}
        onDragLeave={() => setDropping(false)}
        onDrop={(event) => { event.preventDefault(); setDropping(false); void upload([...event.dataTransfer.files]); }}
        className={dropping ? 'bg-accent-soft' : undefined}
      >
        {sending && <p role="status" className="px-4 py-2 text-sm text-muted">{sending}…</p>}
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.error && folder !== '/' && <p className="px-4 pb-4"><Button onClick={() => setFolder(parent(folder))}>To the folder above</Button></p>}
        {found.data?.length === 0 && <Empty title="An empty folder"><p className="text-sm text-muted">Drop files here, upload some, or let a sandbox write into its mount.</p></Empty>}
        <ul className="divide-y divide-line">
          {folder !== '/' && (
            <li><button type="button" className="flex w-full items-center gap-3 px-4 py-2 text-left hover:bg-raised" onClick={() => setFolder(parent(folder))}><Folder className="size-4 text-muted" aria-hidden /> ..<span className="sr-only">the folder above</span></button></li>
          )}
          {entries.map((entry) => <Row key={entry.path} entry={entry} enter={() => setFolder(entry.path)} fetch={() => void download(id, entry)} doom={() => doom(entry)} />)}
        </ul>
      </div>
      {naming && <NewFolder id={id} folder={folder} touched={touched} close={() => name(false)} />}
      <Confirm open={replacing.length > 0} onOpenChange={() => replace([])} title={replacing.length === 1 ? `Replace ${replacing[0]?.name}?` : `Replace ${replacing.length} files?`} text={<>{replacing.map((file) => file.name).join(', ')} – there is something of that name already. A sandbox that has it open gets an error.</>} action="Replace" onConfirm={() => { const chosen = replacing; replace([]); void upload(chosen, true); }} />
      <Confirm open={!!doomed} onOpenChange={() => doom(null)} title={`Delete ${doomed?.name}?`} text={<><code>{doomed?.path}</code>{doomed && isFolder(doomed) && ' and everything in it'} cannot be brought back.</>} action="Delete" busy={remove.isPending} onConfirm={() => doomed && remove.mutate(doomed)} />
    </Card>
  );
}

function Row({ entry, enter, fetch, doom }: { entry: VolumeEntry; enter: () => void; fetch: () => void; doom: () => void }) {
  const Icon = icons[entry.type];
  const kind = { directory: 'Folder', file: 'File', symlink: 'Link', unknown: 'Special file' }[entry.type];
  const open = isFolder(entry) ? enter : entry.type === 'file' ? fetch : undefined;
  return (
    <li className="flex items-center gap-2 pr-2 hover:bg-raised">
      <button type="button" disabled={!open} onClick={open} title={entry.type === 'file' ? `Download ${entry.name}` : undefined} className="flex min-w-0 flex-1 items-center gap-3 px-4 py-2 text-left">
        <Icon className={`size-4 shrink-0 ${isFolder(entry) ? 'text-accent' : 'text-muted'}`} aria-label={kind} />
        <span className="min-w-0 flex-1 truncate">{entry.name}{entry.target && <span className="text-muted"> → {entry.target}</span>}</span>
        <span className="hidden text-xs text-muted lg:inline"><code>{entry.mode.toString(8).padStart(4, '0')}</code> {entry.uid}:{entry.gid}</span>
        <span className="hidden w-40 text-right text-xs text-muted sm:inline">{when(entry.mtime)}</span>
        <span className="w-20 shrink-0 text-right text-xs text-muted tabular-nums">{entry.type === 'file' ? bytes(entry.size) : ''}</span>
      </button>
      <Menu
        trigger={<IconButton label={`Actions for ${entry.name}`}><EllipsisVertical className="size-4" /></IconButton>}
        items={[
          ...(entry.type === 'file' ? [{ label: 'Download', icon: <Download className="size-4" />, onSelect: fetch }] : []),
          { label: 'Delete…', icon: <Trash2 className="size-4" />, danger: true, onSelect: doom },
        ]}
      />
    </li>
  );
}

function NewFolder({ id, folder, touched, close }: { id: string; folder: string; touched: readonly (readonly string[])[]; close: () => void }) {
  const [text, setText] = useState('');
  const save = useChange(() => content.makeFolder(id, join(folder, text.trim())), 'The folder is made', [...touched], close);
  return (
    <Dialog open onOpenChange={close} title="New folder">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        <Field label="Name">{(field) => <Input id={field} required autoFocus pattern="[^\/]+" value={text} onChange={(event) => setText(event.target.value)} />}</Field>
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending}>Create</Button></div>
      </form>
    </Dialog>
  );
}
