// Where one is in a tree of folders, each a step back.
export const join = (folder: string, name: string) => `${folder === '/' ? '' : folder}/${name}`;
export const parent = (path: string) => path.slice(0, path.lastIndexOf('/')) || '/';

export function PathBar({ folder, go }: { folder: string; go: (folder: string) => void }) {
  const parts = folder.split('/').filter(Boolean);
  return (
    <nav aria-label="Folder" className="flex flex-wrap items-center font-normal">
      <button type="button" aria-label="The root folder" className="rounded px-1 hover:bg-raised" onClick={() => go('/')}>/</button>
      {parts.map((part, at) => (
        <span key={`${at}-${part}`}>
          <button type="button" className="rounded px-1 hover:bg-raised" aria-current={at === parts.length - 1 ? 'location' : undefined} onClick={() => go(`/${parts.slice(0, at + 1).join('/')}`)}>{part}</button>
          {at < parts.length - 1 && '/'}
        </span>
      ))}
    </nav>
  );
}
