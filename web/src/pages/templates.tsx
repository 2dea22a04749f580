import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { Badge, Card, Empty, Input, Loading, PageHead, Problem, Snippets, stateTone } from '../components/ui';
import { ago, mib, when } from '../lib/format';
import { templateName, templates } from '../lib/queries';
import { firstTemplate } from '../lib/snippets';

export default function Templates() {
  const found = useQuery(templates);
  const [search, setSearch] = useState('');
  const wanted = search.trim().toLowerCase();
  const shown = found.data?.filter((one) => [...one.names, ...one.aliases, one.templateID].some((name) => name.toLowerCase().includes(wanted)));
  return (
    <>
      <PageHead title="Templates" />
      <Card>
        {found.isPending && <Loading />}
        {found.error && <Problem error={found.error} retry={() => found.refetch()} />}
        {found.data?.length === 0 && (
          <Empty title="No templates yet"><p className="text-sm text-muted">A template is what sandboxes start from. Build your own with an SDK:</p><Snippets snippets={firstTemplate} /></Empty>
        )}
        {!!found.data?.length && (
          <>
            <div className="border-b border-line p-3"><Input aria-label="Search templates" placeholder="Search by name or ID" value={search} onChange={(event) => setSearch(event.target.value)} className="max-w-sm" /></div>
            {shown?.length === 0 && <Empty title="No template has that name" />}
            <ul className="divide-y divide-line">
              {shown?.map((one) => (
                <li key={one.templateID}>
                  <Link to="/dashboard/templates/$id" params={{ id: one.templateID }} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-4 py-3 hover:bg-raised">
                    <span className="min-w-0 flex-1 basis-56">
                      <span className="block truncate font-medium">{templateName(one)}</span>
                      <code className="block truncate text-xs text-muted">{one.templateID}</code>
                    </span>
                    <Badge tone={stateTone(one.buildStatus)}>{one.buildStatus}</Badge>
                    {one.isDefault && <Badge>comes with Hearth</Badge>}
                    {one.public && !one.isDefault && <Badge>public</Badge>}
                    <span className="text-sm text-muted">{one.cpuCount} vCPU · {mib(one.memoryMB)}</span>
                    <span className="text-sm text-muted" title={when(one.updatedAt)}>changed {ago(one.updatedAt)}</span>
                  </Link>
                </li>
              ))}
            </ul>
          </>
        )}
      </Card>
      {!!found.data?.length && <div className="mt-4"><Card title="Build your own"><div className="p-4"><Snippets snippets={firstTemplate} /></div></Card></div>}
    </>
  );
}
