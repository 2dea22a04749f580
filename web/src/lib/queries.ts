// What the pages ask for, and how often they ask again.
import { type QueryKey, queryOptions, useMutation, useQueryClient } from '@tanstack/react-query';
import { toast } from 'sonner';
import { ApiError, all, api, enc } from './api';
import type { ApiKey, Delivery, Detail, Listed, Metric, Node, SandboxEvent, SandboxUsage, Secret, Session, Snapshot, Tag, TeamMaximum, TeamMetric, Template, TemplateWithBuilds, Usage, Volume, VolumeUsage, Webhook, WebhookStats } from './types';
import type { Span } from './usage';

export const session = queryOptions({
  queryKey: ['session'],
  queryFn: async (): Promise<Session | null> => {
    try {
      return await api.get<Session>('/web/session');
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return null;
      throw error;
    }
  },
  staleTime: 60_000,
});

export const sandboxes = queryOptions({
  queryKey: ['sandboxes'],
  queryFn: () => all<Listed>('/v2/sandboxes?state=running,paused'),
  refetchInterval: 2500,
});

// The newest sample of each sandbox, 100 to a question.
export const liveMetrics = (ids: string[]) =>
  queryOptions({
    queryKey: ['metrics', ...ids],
    enabled: ids.length > 0,
    placeholderData: (before: Record<string, Metric> | undefined) => before,
    queryFn: async () => {
      const found: Record<string, Metric> = {};
      for (let at = 0; at < ids.length; at += 100) {
        const some = ids.slice(at, at + 100).join(',');
        Object.assign(found, (await api.get<{ sandboxes: Record<string, Metric> }>(`/sandboxes/metrics?sandbox_ids=${some}`)).sandboxes);
      }
      return found;
    },
    refetchInterval: 5000,
  });

export const sandbox = (id: string) =>
  queryOptions({ queryKey: ['sandbox', id], queryFn: () => api.get<Detail>(`/sandboxes/${enc(id)}`), refetchInterval: 3000 });

export const snapshots = (id: string) =>
  queryOptions({ queryKey: ['snapshots', id], queryFn: () => all<Snapshot>(`/snapshots?sandboxID=${enc(id)}`) });

export const templates = queryOptions({
  queryKey: ['templates'],
  queryFn: async () => {
    const [own, defaults] = await Promise.all([all<Template>('/v2/templates'), api.get<Template[]>('/default-templates')]);
    const known = new Set(own.map((template) => template.templateID));
    return [...own, ...defaults.filter((template) => !known.has(template.templateID))];
  },
  refetchInterval: 5000,
});

export const template = (id: string) =>
  queryOptions({ queryKey: ['template', id], queryFn: () => api.get<TemplateWithBuilds>(`/templates/${enc(id)}`), refetchInterval: 3000 });

export const tags = (id: string) =>
  queryOptions({ queryKey: ['tags', id], queryFn: () => api.get<Tag[]>(`/templates/${enc(id)}/tags`) });

export const secrets = queryOptions({ queryKey: ['secrets'], queryFn: () => all<Secret>('/secrets') });

export const keys = queryOptions({ queryKey: ['keys'], queryFn: () => api.get<ApiKey[]>('/api-keys'), refetchInterval: 30_000 });

export const volumes = queryOptions({
  queryKey: ['volumes'],
  queryFn: () => api.get<Volume[]>('/volumes'),
  // A copy that is being made comes to its end by itself.
  refetchInterval: (query) => (query.state.data?.some(({ state }) => state === 'making') ? 2000 : 15_000),
});

// Every entry is counted, which is work: only when asked.
export const usage = (id: string) =>
  queryOptions({ queryKey: ['usage', id], queryFn: () => api.get<VolumeUsage>(`/volumes/${enc(id)}/usage`), staleTime: 60_000, refetchOnWindowFocus: false });

export const EVENTS_PAGE = 50;

// The newest first; of one sandbox or of all the team has. `offset` counts events.
export const events = (sandbox: string | undefined, type: string, offset: number) =>
  queryOptions({
    queryKey: ['events', sandbox ?? '', type, offset],
    queryFn: async (): Promise<SandboxEvent[]> => {
      const query = new URLSearchParams({ limit: String(EVENTS_PAGE), offset: String(offset), ...(type ? { types: type } : {}) });
      try {
        return await api.get<SandboxEvent[]>(`/events/sandboxes${sandbox ? `/${enc(sandbox)}` : ''}?${query}`);
      } catch (error) {
        // Nothing has been told of it, or no longer is.
        if (sandbox && error instanceof ApiError && error.status === 404) return [];
        throw error;
      }
    },
    placeholderData: (before: SandboxEvent[] | undefined) => before,
    refetchInterval: offset === 0 ? 3000 : false,
  });

export const webhooks = queryOptions({ queryKey: ['webhooks'], queryFn: () => api.get<Webhook[]>('/events/webhooks'), refetchInterval: 10_000 });

export const webhook = (id: string) =>
  queryOptions({ queryKey: ['webhook', id], queryFn: () => api.get<Webhook>(`/events/webhooks/${enc(id)}`), refetchInterval: 5000 });

export const webhookStats = (id: string) =>
  queryOptions({ queryKey: ['webhook-stats', id], queryFn: () => api.get<WebhookStats>(`/events/webhooks/${enc(id)}/stats`), refetchInterval: 5000 });

export const deliveries = (id: string, status: string, cursor: string | undefined) =>
  queryOptions({
    queryKey: ['deliveries', id, status, cursor ?? ''],
    queryFn: () => {
      const query = new URLSearchParams({ limit: '25', ...(status ? { deliveryStatus: status } : {}), ...(cursor ? { cursor } : {}) });
      return api.get<{ data: Delivery[]; nextCursor?: string | null }>(`/events/webhooks/${enc(id)}/deliveries?${query}`);
    },
    placeholderData: (before: { data: Delivery[]; nextCursor?: string | null } | undefined) => before,
    refetchInterval: cursor ? false : 3000,
  });

export const nodes = queryOptions({ queryKey: ['nodes'], queryFn: () => api.get<Node[]>('/nodes'), refetchInterval: 3000 });

export const node = (id: string) =>
  queryOptions({ queryKey: ['node', id], queryFn: () => api.get<Node>(`/nodes/${enc(id)}`), refetchInterval: 2000 });

const asQuery = ({ start, end }: Span) => `start=${start}&end=${end}`;

// What the team used in a part of the time. What is over stays as it is.
export const teamUsage = (span: Span, over: boolean) =>
  queryOptions({
    queryKey: ['team-usage', span.start, span.end],
    queryFn: () => api.get<Usage>(`/usage?${asQuery(span)}`),
    ...(over ? { staleTime: Infinity } : { refetchInterval: 30_000 }),
  });

export const USAGE_MOST = 2000;

export const sandboxUsage = (span: Span) =>
  queryOptions({
    queryKey: ['sandbox-usage', span.start, span.end],
    queryFn: () => all<SandboxUsage>(`/usage/sandboxes?limit=1000&${asQuery(span)}`, USAGE_MOST),
    refetchInterval: 30_000,
  });

export const teamMetrics = (team: string, span: Span) =>
  queryOptions({
    queryKey: ['team-metrics', team, span.start, span.end],
    queryFn: () => api.get<TeamMetric[]>(`/teams/${enc(team)}/metrics?${asQuery(span)}`),
    refetchInterval: 30_000,
  });

export const teamMaximum = (team: string, metric: 'concurrent_sandboxes' | 'sandbox_start_rate', span: Span) =>
  queryOptions({
    queryKey: ['team-maximum', team, metric, span.start, span.end],
    queryFn: () => api.get<TeamMaximum>(`/teams/${enc(team)}/metrics/max?metric=${metric}&${asQuery(span)}`),
    refetchInterval: 30_000,
  });

// A change: says what was done or why not, and has what it touched asked for anew.
export function useChange<Input, Output = unknown>(change: (input: Input) => Promise<Output>, done: string | ((output: Output, input: Input) => string), touched: QueryKey[], then?: (output: Output, input: Input) => void) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: change,
    onSuccess: (output, input) => {
      toast.success(typeof done === 'string' ? done : done(output, input));
      then?.(output, input);
    },
    onError: (error) => toast.error(error.message, { duration: 10_000 }),
    onSettled: () => touched.forEach((queryKey) => void client.invalidateQueries({ queryKey })),
  });
}

export const templateName = (template: Pick<Template, 'names' | 'aliases' | 'templateID'>) =>
  template.names[0] ?? template.aliases[0] ?? template.templateID;
