// One file: text in an editor, a picture as a picture, anything else to download.
import { javascript } from '@codemirror/lang-javascript';
import { json } from '@codemirror/lang-json';
import { markdown } from '@codemirror/lang-markdown';
import { python } from '@codemirror/lang-python';
import { EditorView, keymap } from '@codemirror/view';
import { oneDark } from '@codemirror/theme-one-dark';
import { useQuery } from '@tanstack/react-query';
import { basicSetup } from 'codemirror';
import { ArrowLeft, Download, Save } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { toast } from 'sonner';
import { Button, Card, Confirm, Empty, IconButton, Loading, Problem, errorText } from '../../components/ui';
import { type FileEntry, files } from '../../lib/agent';
import { bytes } from '../../lib/format';
import { useDark } from '../../lib/theme';
import { download } from './files';

// Larger files are for other tools.
const MOST = 2 * 1024 * 1024;
const pictures: Record<string, string> = { png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', gif: 'image/gif', webp: 'image/webp' };
const ending = (name: string) => name.split('.').pop()?.toLowerCase() ?? '';

type Content = { kind: 'text'; text: string; modified?: string } | { kind: 'picture'; url: string } | { kind: 'other' };

async function read(id: string, entry: FileEntry): Promise<Content> {
  const told = await files.stat(id, entry.path);
  if (Number(told.size ?? 0) > MOST) return { kind: 'other' };
  const blob = await files.read(id, entry.path);
  const picture = pictures[ending(entry.name)];
  if (picture) return { kind: 'picture', url: URL.createObjectURL(new Blob([blob], { type: picture })) };
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await blob.arrayBuffer());
    return text.includes('\0') ? { kind: 'other' } : { kind: 'text', text, modified: told.modifiedTime };
  } catch {
    return { kind: 'other' };
  }
}

export default function Preview({ id, entry, close }: { id: string; entry: FileEntry; close: () => void }) {
  const found = useQuery({ queryKey: ['content', id, entry.path], queryFn: () => read(id, entry), gcTime: 0, staleTime: Infinity, refetchOnWindowFocus: false });
  const content = found.data;
  if (content?.kind === 'text') return <Editor id={id} entry={entry} first={content} close={close} />;
  return (
    <Card title={<Title entry={entry} close={close} />} actions={<Button onClick={() => download(id, entry)}><Download className="size-4" aria-hidden /> Download</Button>}>
      {found.isPending && <Loading />}
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {content?.kind === 'picture' && <div className="p-4"><img src={content.url} alt={entry.name} className="max-h-[70dvh] max-w-full" /></div>}
      {content?.kind === 'other' && <Empty title="No preview"><p className="text-sm text-muted">This file is not text in UTF-8, or is larger than {bytes(MOST)}. Download it, or look at it in the terminal.</p></Empty>}
    </Card>
  );
}

function Title({ entry, close, changed }: { entry: FileEntry; close: () => void; changed?: boolean }) {
  return (
    <span className="flex min-w-0 items-center gap-2">
      <IconButton label="Back to the folder" onClick={close}><ArrowLeft className="size-4" /></IconButton>
      <code className="min-w-0 text-[13px] break-all">{entry.path}</code>
      {changed && <span className="text-xs font-normal text-muted">not saved</span>}
    </span>
  );
}

function language(name: string) {
  switch (ending(name)) {
    case 'py': return [python()];
    case 'js': case 'mjs': case 'cjs': case 'jsx': return [javascript({ jsx: true })];
    case 'ts': case 'tsx': return [javascript({ jsx: true, typescript: true })];
    case 'json': return [json()];
    case 'md': return [markdown()];
    default: return [];
  }
}

function Editor({ id, entry, first, close }: { id: string; entry: FileEntry; first: { text: string; modified?: string }; close: () => void }) {
  const dark = useDark();
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const text = useRef(first.text);
  const save = useRef<() => void>(() => {});
  const [saved, setSaved] = useState(first);
  const [changed, setChanged] = useState(false);
  const [busy, setBusy] = useState(false);
  const [asking, ask] = useState<'leave' | 'overwrite' | null>(null);

  const write = async (anyway: boolean) => {
    setBusy(true);
    ask(null);
    try {
      const now = await files.stat(id, entry.path).catch(() => undefined);
      if (!anyway && saved.modified && now?.modifiedTime !== saved.modified) return ask('overwrite');
      const sent = text.current;
      await files.write(id, entry.path, sent);
      setSaved({ text: sent, modified: (await files.stat(id, entry.path)).modifiedTime });
      setChanged(text.current !== sent);
      toast.success('Saved');
    } catch (error) {
      toast.error(`Not saved: ${errorText(error)}`, { duration: 10_000 });
    } finally {
      setBusy(false);
    }
  };
  save.current = () => void write(false);

  useEffect(() => {
    const editor = new EditorView({
      parent: box.current as HTMLElement,
      doc: text.current,
      extensions: [
        keymap.of([{ key: 'Mod-s', preventDefault: true, run: () => (save.current(), true) }]),
        basicSetup,
        EditorView.contentAttributes.of({ 'aria-label': `Content of ${entry.name}` }),
        EditorView.updateListener.of((update) => {
          if (!update.docChanged) return;
          text.current = update.state.sliceDoc();
          setChanged(true);
        }),
        language(entry.name),
        dark ? oneDark : [],
      ],
    });
    view.current = editor;
    return () => editor.destroy();
  }, [dark, entry.name]);

  const leave = () => (changed ? ask('leave') : close());
  return (
    <Card
      title={<Title entry={entry} close={leave} changed={changed} />}
      actions={
        <>
          <Button onClick={() => download(id, entry)}><Download className="size-4" aria-hidden /> Download</Button>
          <Button look="primary" busy={busy} disabled={!changed} onClick={() => write(false)}><Save className="size-4" aria-hidden /> Save</Button>
        </>
      }
    >
      <div ref={box} className="h-[min(65dvh,40rem)] overflow-hidden" />
      <Confirm open={asking === 'leave'} onOpenChange={() => ask(null)} title="Leave without saving?" text="What you changed is lost." action="Leave" onConfirm={close} />
      <Confirm open={asking === 'overwrite'} onOpenChange={() => ask(null)} title="The file has changed" text="A program in the sandbox, or somebody else, has written it since you opened it. Saving replaces that." action="Save mine" onConfirm={() => write(true)} />
    </Card>
  );
}
