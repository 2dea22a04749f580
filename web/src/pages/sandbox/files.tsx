// Browse, upload, download, preview and edit the files of a sandbox.
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Download, EllipsisVertical, File, Folder, FolderPlus, FilePlus, Pencil, Trash2, Upload } from 'lucide-react';
import { Suspense, lazy, useRef, useState } from 'react';
import { toast } from 'sonner';
import { PathBar, join, parent } from '../../components/path';
import { Button, Card, Confirm, Dialog, Empty, Field, IconButton, Input, Loading, Menu, Problem, errorText } from '../../components/ui';
import { type FileEntry, files, isFolder } from '../../lib/agent';
import { bytes, when } from '../../lib/format';
import { saveAs } from '../../lib/download';
import { useChange } from '../../lib/queries';

const Preview = lazy(() => import('./preview'));

// Where the browser tells whose request it is, a link downloads; elsewhere the page reads
// the file first.
export async function download(id: string, entry: FileEntry) {
  if (window.isSecureContext) {
    const link = document.createElement('a');
    link.download = entry.name;
    link.href = files.url(id, entry.path);
    link.click();
    return;
  }
  try {
    saveAs(entry.name, await files.read(id, entry.path));
  } catch (error) {
    toast.error(errorText(error));
  }
}

export default function Files({ id }: { id: string }) {
  const client = useQueryClient();
  const [folder, setFolder] = useState('/home/user');
  const [opened, open] = useState<FileEntry | null>(null);
  const [naming, name] = useState<{ what: 'folder' | 'file' | 'rename'; of?: FileEntry } | null>(null);
  const [doomed, doom] = useState<FileEntry | null>(null);
  const [dropping, setDropping] = useState(false);
  const [sending, setSending] = useState<string | null>(null);
  const picker = useRef<HTMLInputElement>(null);
  const key = ['files', id, folder];
  const found = useQuery({ queryKey: key, queryFn: () => files.list(id, folder), refetchInterval: 5000 });
  const entries = [...(found.data ?? [])].sort((a, b) => Number(isFolder(b)) - Number(isFolder(a)) || a.name.localeCompare(b.name));
  const remove = useChange((entry: FileEntry) => files.remove(id, entry.path), (_, entry) => `${entry.name} is deleted`, [key], () => doom(null));

  const upload = async (list: FileList | null) => {
    const chosen = [...(list ?? [])];
    for (const [at, file] of chosen.entries()) {
      setSending(`Uploading ${file.name} (${at + 1} of ${chosen.length})`);
      try {
        await files.write(id, join(folder, file.name), file);
        toast.success(`${file.name} is there`);
      } catch (error) {
        toast.error(`${file.name}: ${errorText(error)}`, { duration: 10_000 });
      }
    }
    setSending(null);
    if (picker.current) picker.current.value = '';
    void client.invalidateQueries({ queryKey: key });
  };

  if (opened) {
    return (
      <Suspense fallback={<Loading />}>
        <Preview id={id} entry={opened} close={() => { open(null); void client.invalidateQueries({ queryKey: key }); }} />
      </Suspense>
    );
  }
  const enter = (entry: FileEntry) => (isFolder(entry) ? setFolder(entry.path) : open(entry));
  return (
    <Card
      title={<PathBar folder={folder} go={setFolder} />}
      actions={
        <>
          <IconButton label="New file" onClick={() => name({ what: 'file' })}><FilePlus className="size-4" /></IconButton>
          <IconButton label="New folder" onClick={() => name({ what: 'folder' })}><FolderPlus className="size-4" /></IconButton>
          <Button busy={!!sending} onClick={() => picker.current?.click()}><Upload className="size-4" aria-hidden /> Upload</Button>
          <input ref={picker} type="file" multiple hidden aria-label="Files to upload" onChange={(event) => upload(event.target.files)} />
        </>
      }
    >
      <div
        onDragOver={(event) => { event.preventDefault(); setDropping(true); }}
        onDragLeave={() => setDropping(false)}
        onDrop={(event) => { event.preventDefault(); setDropping(false); void upload(event.dataTransfer.files); }}
        className={dropping ? 'bg-accent-soft' : undefined}
      >
        {sending && <p role="status" className="px-4 py-2 text-sm text-muted">{sending}…</p>}
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.error && folder !== '/' && <p className="px-4 pb-4"><Button onClick={() => setFolder(parent(folder))}>To the folder above</Button></p>}
        {found.data?.length === 0 && <Empty title="An empty folder"><p className="text-sm text-muted">Drop files here, or upload some.</p></Empty>}
        <ul className="divide-y divide-line">
          {folder !== '/' && (
            <li><button type="button" className="flex w-full items-center gap-3 px-4 py-2 text-left hover:bg-raised" onClick={() => setFolder(parent(folder))}><Folder className="size-4 text-muted" aria-hidden /> ..<span className="sr-only">the folder above</span></button></li>
          )}
          {entries.map((entry) => (
            <li key={entry.path} className="flex items-center gap-2 pr-2 hover:bg-raised">
              <button type="button" onClick={() => enter(entry)} className="flex min-w-0 flex-1 items-center gap-3 px-4 py-2 text-left">
                {isFolder(entry) ? <Folder className="size-4 shrink-0 text-accent" aria-label="Folder" /> : <File className="size-4 shrink-0 text-muted" aria-label="File" />}
                <span className="min-w-0 flex-1 truncate">{entry.name}{entry.symlinkTarget && <span className="text-muted"> → {entry.symlinkTarget}</span>}</span>
                <span className="hidden text-xs text-muted lg:inline"><code>{entry.permissions}</code> {entry.owner}</span>
                <span className="hidden w-40 text-right text-xs text-muted sm:inline">{entry.modifiedTime && when(entry.modifiedTime)}</span>
                <span className="w-20 shrink-0 text-right text-xs text-muted tabular-nums">{isFolder(entry) ? '' : bytes(Number(entry.size ?? 0))}</span>
              </button>
              <Menu
                trigger={<IconButton label={`Actions for ${entry.name}`}><EllipsisVertical className="size-4" /></IconButton>}
                items={[
                  ...(isFolder(entry) ? [] : [{ label: 'Download', icon: <Download className="size-4" />, onSelect: () => void download(id, entry) }]),
                  { label: 'Rename…', icon: <Pencil className="size-4" />, onSelect: () => name({ what: 'rename', of: entry }) },
                  { label: 'Delete…', icon: <Trash2 className="size-4" />, danger: true, onSelect: () => doom(entry) },
                ]}
              />
            </li>
          ))}
        </ul>
      </div>
      {naming && <Name id={id} folder={folder} {...naming} touched={key} close={() => name(null)} then={open} />}
      <Confirm open={!!doomed} onOpenChange={() => doom(null)} title={`Delete ${doomed?.name}?`} text={<><code>{doomed?.path}</code>{doomed && isFolder(doomed) && ' and everything in it'} cannot be brought back.</>} action="Delete" busy={remove.isPending} onConfirm={() => doomed && remove.mutate(doomed)} />
    </Card>
  );
}

const titles = { folder: 'New folder', file: 'New file', rename: 'Rename' };

function Name({ id, folder, what, of, touched, close, then }: { id: string; folder: string; what: 'folder' | 'file' | 'rename'; of?: FileEntry; touched: string[]; close: () => void; then: (entry: FileEntry) => void }) {
  const [text, setText] = useState(of?.name ?? '');
  const save = useChange(
    async () => {
      const path = join(folder, text.trim());
      if (what === 'folder') return void (await files.makeFolder(id, path));
      // Nothing that is there is overwritten.
      if (await files.stat(id, path).then(() => true, () => false)) throw new Error(`There is something of the name ${text.trim()} already`);
      if (what === 'rename') await files.move(id, of?.path ?? '', path);
      else await files.write(id, path, '');
    },
    what === 'rename' ? 'Renamed' : 'Made',
    [touched],
    () => {
      close();
      if (what === 'file') then({ name: text.trim(), path: join(folder, text.trim()), size: 0 });
    },
  );
  return (
    <Dialog open onOpenChange={close} title={titles[what]}>
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); save.mutate(undefined); }}>
        <Field label="Name">{(field) => <Input id={field} required autoFocus pattern="[^\/]+" value={text} onChange={(event) => setText(event.target.value)} />}</Field>
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={save.isPending}>{what === 'rename' ? 'Rename' : 'Create'}</Button></div>
      </form>
    </Dialog>
  );
}
