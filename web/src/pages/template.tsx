import { useQuery } from '@tanstack/react-query';
import { Link, getRouteApi, useNavigate } from '@tanstack/react-router';
import { Play, Tag as TagIcon, Trash2, X } from 'lucide-react';
import { useEffect, useState } from 'react';
import { Logs } from '../components/logs';
import { Badge, Button, Card, Confirm, CopyText, Dialog, Facts, Field, IconButton, Input, Loading, PageHead, Problem, Select, stateTone } from '../components/ui';
import { api, enc } from '../lib/api';
import { ago, mib, span, when } from '../lib/format';
import { tags, template, templateName, templates, useChange } from '../lib/queries';
import type { Build, BuildInfo, BuildLog, Tag, TemplateWithBuilds } from '../lib/types';

const route = getRouteApi('/dashboard/templates/$id');

export default function Template() {
  const { id } = route.useParams();
  const { build } = route.useSearch();
  const navigate = useNavigate();
  const found = useQuery(template(id));
  const [doomed, doom] = useState(false);
  const remove = useChange(() => api.delete(`/templates/${enc(id)}`), 'The template is deleted', [templates.queryKey], () => navigate({ to: '/dashboard/templates' }));
  if (found.isPending) return <Loading />;
  if (!found.data) return <Problem error={found.error} retry={() => found.refetch()} />;
  const one = found.data;
  const shown = one.builds.find((candidate) => candidate.buildID === build) ?? one.builds[0];
  return (
    <>
      <p className="mb-1 text-sm"><Link to="/dashboard/templates" className="text-muted hover:text-text">Templates</Link></p>
      <PageHead title={<>{templateName(one)} <Badge tone={stateTone(one.buildStatus)}>{one.buildStatus}</Badge></>}>
        <Button look="primary" onClick={() => navigate({ to: '/dashboard/sandboxes', search: { create: one.names[0] ?? one.templateID } })}><Play className="size-4" aria-hidden /> Create a sandbox</Button>
        {!one.isDefault && <Button look="danger" onClick={() => doom(true)}><Trash2 className="size-4" aria-hidden /> Delete</Button>}
      </PageHead>
      <div className="space-y-4">
        <Card>
          <Facts facts={[['ID', <CopyText text={one.templateID} />], ['Names', one.names.join(', ') || 'none'], ['Size', `${one.cpuCount} vCPU · ${mib(one.memoryMB)} memory · ${mib(one.diskSizeMB)} disk`], ['Created', when(one.createdAt)], ['Changed', when(one.updatedAt)], ['Builds', one.buildCount]]} />
        </Card>
        <Tags template={one} />
        <Card title="Builds">
          {one.builds.length === 0 && <p className="p-4 text-sm text-muted">No builds to show.</p>}
          <ul className="max-h-72 divide-y divide-line overflow-y-auto" tabIndex={0} aria-label="Builds">
            {one.builds.map((each) => (
              <li key={each.buildID}>
                <Link to="/dashboard/templates/$id" params={{ id }} search={{ build: each.buildID }} aria-current={each === shown} className="flex flex-wrap items-center gap-x-4 px-4 py-2 hover:bg-raised aria-[current=true]:bg-raised">
                  <code className="min-w-0 flex-1 truncate text-xs">{each.buildID}</code>
                  <Badge tone={stateTone(each.status)}>{each.status}</Badge>
                  <span className="text-sm text-muted" title={when(each.createdAt)}>{ago(each.createdAt)}{each.finishedAt && `, took ${span((Date.parse(each.finishedAt) - Date.parse(each.createdAt)) / 1000)}`}</span>
                </Link>
              </li>
            ))}
          </ul>
        </Card>
        {shown && !one.isDefault && <BuildLogs key={shown.buildID} template={id} build={shown} />}
        {one.isDefault && <p className="text-sm text-muted">This template came with Hearth: nobody built it here, so there is no log of a build.</p>}
      </div>
      <Confirm open={doomed} onOpenChange={doom} title={`Delete ${templateName(one)}?`} text="All its builds and tags go with it. Sandboxes can no longer be created from it. This cannot be undone." action="Delete" busy={remove.isPending} onConfirm={() => remove.mutate(undefined)} />
    </>
  );
}

// Asks for what has been added since, until the build is over.
function BuildLogs({ template, build }: { template: string; build: Build }) {
  const [lines, setLines] = useState<BuildLog[]>([]);
  const path = `/templates/${enc(template)}/builds/${enc(build.buildID)}`;
  const state = useQuery({
    queryKey: ['build', build.buildID, lines.length],
    queryFn: () => api.get<BuildInfo>(`${path}/status?logsOffset=${lines.length}&limit=100`),
    placeholderData: (before: BuildInfo | undefined) => before,
    refetchInterval: (query) => (['ready', 'error'].includes(query.state.data?.status ?? '') ? false : 1000),
    gcTime: 0,
  });
  useEffect(() => {
    const added = state.isPlaceholderData ? undefined : state.data?.logEntries;
    if (added?.length) setLines((before) => [...before, ...added]);
  }, [state.data, state.isPlaceholderData]);
  const cancel = useChange(() => api.delete(path), 'The build is cancelled', [['template', template]]);
  const info = state.data;
  const going = info && !['ready', 'error'].includes(info.status);
  return (
    <Card title={<>Log of the build <code className="text-xs font-normal">{build.buildID}</code></>} actions={<>{info && <Badge tone={stateTone(info.status)}>{info.status}</Badge>}{going && <Button look="danger" busy={cancel.isPending} onClick={() => cancel.mutate(undefined)}>Cancel the build</Button>}</>}>
      {state.error && <Problem error={state.error} retry={() => state.refetch()} />}
      {info?.reason && <div role="alert" className="m-4 rounded-md bg-bad-soft px-4 py-3 text-sm text-bad">{info.reason.step && <strong>Step {info.reason.step}: </strong>}{info.reason.message}</div>}
      <Logs label="Log of the build" lines={lines.map((line) => ({ ...line, from: line.step }))} empty={going ? 'Nothing yet.' : 'This build has no log: it is no longer kept.'} />
    </Card>
  );
}

function Tags({ template: one }: { template: TemplateWithBuilds }) {
  const found = useQuery(tags(one.templateID));
  const [adding, add] = useState(false);
  const name = one.names[0] ?? one.templateID;
  const touched = [tags(one.templateID).queryKey, ['template', one.templateID]];
  const remove = useChange((tag: Tag) => api.delete('/templates/tags', { name, tags: [tag.tag] }), (_, tag) => `The tag ${tag.tag} is removed`, touched);
  return (
    <Card title="Tags" actions={!one.isDefault && <Button onClick={() => add(true)} disabled={!found.data?.length}><TagIcon className="size-4" aria-hidden /> Assign a tag</Button>}>
      {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
      {found.data?.length === 0 && <p className="p-4 text-sm text-muted">No tags. A build gets the tag <code>default</code> when it is ready.</p>}
      <ul className="divide-y divide-line">
        {found.data?.map((tag) => (
          <li key={tag.tag} className="flex flex-wrap items-center gap-x-3 px-4 py-1.5">
            <Badge tone="accent">{tag.tag}</Badge>
            <code className="min-w-0 flex-1 truncate text-xs text-muted">{tag.buildID}</code>
            <span className="text-sm text-muted" title={when(tag.createdAt)}>{ago(tag.createdAt)}</span>
            {!one.isDefault && tag.tag !== 'default' && <IconButton label={`Remove the tag ${tag.tag}`} disabled={remove.isPending} onClick={() => remove.mutate(tag)}><X className="size-4" /></IconButton>}
          </li>
        ))}
      </ul>
      {adding && <Assign name={name} tags={found.data ?? []} touched={touched} close={() => add(false)} />}
    </Card>
  );
}

function Assign({ name, tags: known, touched, close }: { name: string; tags: Tag[]; touched: string[][]; close: () => void }) {
  const [from, setFrom] = useState(known[0]?.tag ?? 'default');
  const [tag, setTag] = useState('');
  const assign = useChange(() => api.post('/templates/tags', { target: `${name}:${from}`, tags: [tag.trim()] }), 'The tag is assigned', touched, close);
  return (
    <Dialog open onOpenChange={close} title="Assign a tag" description="The new tag names the build that the chosen tag names now. An existing tag moves.">
      <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); assign.mutate(undefined); }}>
        <Field label="Build of the tag">{(id) => <Select id={id} value={from} onChange={setFrom} options={known.map((one) => ({ value: one.tag, label: one.tag }))} />}</Field>
        <Field label="Tag" hint="Small letters, digits, “-”, “_” and “.”">{(id) => <Input id={id} required autoFocus pattern="[a-z0-9._\-]+" value={tag} onChange={(event) => setTag(event.target.value)} />}</Field>
        <div className="flex justify-end gap-2"><Button onClick={close}>Cancel</Button><Button type="submit" look="primary" busy={assign.isPending}>Assign</Button></div>
      </form>
    </Dialog>
  );
}
