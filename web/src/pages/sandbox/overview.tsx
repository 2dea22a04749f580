import { Link } from '@tanstack/react-router';
import { Card, CopyText, Facts, Snippets } from '../../components/ui';
import { ago, left, mib, when } from '../../lib/format';
import { connectTo } from '../../lib/snippets';
import type { Detail } from '../../lib/types';

export function Overview({ one }: { one: Detail }) {
  const metadata = Object.entries(one.metadata ?? {});
  return (
    <div className="space-y-4">
      <Card>
        <Facts
          facts={[
            ['Template', <Link to="/dashboard/templates/$id" params={{ id: one.templateID }} className="text-accent underline">{one.alias ?? one.templateID}</Link>],
            ['Started', <span title={when(one.startedAt)}>{ago(one.startedAt)}</span>],
            one.state === 'running'
              ? ['Ends', <span title={when(one.endAt)}>{left(one.endAt)}, then it is {one.lifecycle.onTimeout === 'pause' ? 'paused' : 'killed'}</span>]
              : ['Paused', <span title={when(one.endAt)}>{ago(one.endAt)}{one.lifecycle.autoResume && ', resumes when it is visited'}</span>],
            ['Size', `${one.cpuCount} vCPU · ${mib(one.memoryMB)} memory · ${mib(one.diskSizeMB)} disk`],
            ['ID', <CopyText text={one.sandboxID} />],
            ['Agent', one.envdVersion],
          ]}
        />
      </Card>
      <Card title="Metadata">
        {metadata.length ? <Facts facts={metadata} /> : <p className="p-4 text-sm text-muted">None. Metadata given at creation shows here, and sandboxes can be listed by it.</p>}
      </Card>
      <Card title="Use it from code"><div className="p-4"><Snippets snippets={connectTo(one.sandboxID)} /></div></Card>
    </div>
  );
}
