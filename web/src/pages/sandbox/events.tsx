// What happened to one sandbox; also to one that is no more.
import { Events } from '../../components/events';
import { Empty, Snippets } from '../../components/ui';
import { readEvents } from '../../lib/snippets';

export const SandboxEvents = ({ id }: { id: string }) => (
  <Events
    key={id}
    sandbox={id}
    empty={
      <Empty title="No events of this sandbox">
        <p className="text-sm text-muted">They are no longer kept, or none has been told yet. A program reads them so:</p>
        <Snippets snippets={readEvents(id)} />
      </Empty>
    }
  />
);
