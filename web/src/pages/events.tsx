// What happened to all that the team has.
import { Link } from '@tanstack/react-router';
import { Events } from '../components/events';
import { Button, Card, Empty, PageHead, Snippets } from '../components/ui';
import { readEvents } from '../lib/snippets';

export default function EventsPage() {
  return (
    <>
      <PageHead title="Events"><Link to="/dashboard/webhooks"><Button>Send them to a webhook</Button></Link></PageHead>
      <Events
        empty={
          <Empty title="Nothing has happened yet">
            <p className="text-sm text-muted">Creations, pauses, forks, ends and template builds show here, as soon as there is one.</p>
            <Link to="/dashboard/sandboxes" search={{ create: 'base' }}><Button look="primary">Create a sandbox</Button></Link>
          </Empty>
        }
      />
      <div className="mt-4"><Card title="Read them from a program"><div className="p-4"><Snippets snippets={readEvents()} /></div></Card></div>
    </>
  );
}
