// The parts of the REST API's bodies that the interface reads (docs/openapi.json).

export type SandboxState = 'running' | 'paused';

export interface Listed {
  sandboxID: string;
  templateID: string;
  alias?: string | null;
  state: SandboxState;
  startedAt: string;
  endAt: string;
  cpuCount: number;
  memoryMB: number;
  diskSizeMB: number;
  metadata?: Record<string, string>;
  envdVersion: string;
}

export interface Network {
  allowOut?: string[] | null;
  denyOut?: string[] | null;
  dnsServers?: string[] | null;
  allowPublicTraffic?: boolean | null;
  maskRequestHost?: string | null;
  httpsPorts?: number[] | null;
  rules?: Record<string, unknown> | null;
  egressProxy?: { address: string } | null;
}

export interface Detail extends Listed {
  domain: string;
  allowInternetAccess?: boolean | null;
  network?: Network | null;
  lifecycle: { autoResume: boolean; onTimeout: 'kill' | 'pause' };
}

export interface Metric {
  timestampUnix: number;
  cpuCount: number;
  cpuUsedPct: number;
  memUsed: number;
  memTotal: number;
  diskUsed: number;
  diskTotal: number;
}

export type Level = 'debug' | 'info' | 'warn' | 'error';

export interface LogEntry {
  timestamp: string;
  level: Level;
  message: string;
  fields?: Record<string, string>;
}

export interface Snapshot {
  snapshotID: string;
  names: string[];
}

export type BuildStatus = 'waiting' | 'building' | 'ready' | 'error';

export interface Template {
  templateID: string;
  buildID: string;
  buildStatus: BuildStatus;
  names: string[];
  aliases: string[];
  public: boolean;
  isDefault?: boolean;
  cpuCount: number;
  memoryMB: number;
  diskSizeMB: number;
  createdAt: string;
  updatedAt: string;
  lastSpawnedAt?: string | null;
  spawnCount: number;
  buildCount: number;
}

export interface Build {
  buildID: string;
  status: BuildStatus;
  createdAt: string;
  finishedAt?: string | null;
  cpuCount: number;
  memoryMB: number;
  diskSizeMB: number;
}

export interface TemplateWithBuilds extends Template {
  builds: Build[];
}

export interface Tag {
  tag: string;
  buildID: string;
  createdAt: string;
}

export interface BuildLog {
  timestamp: string;
  level: Level;
  message: string;
  step?: string | null;
}

export interface BuildInfo {
  status: BuildStatus;
  logEntries: BuildLog[];
  reason?: { message: string; step?: string | null } | null;
}

export interface Secret {
  secretID: string;
  name: string;
  currentVersion: number;
  createdAt: string;
  updatedAt: string;
}

export type Scope = 'sandboxes' | 'templates' | 'secrets' | 'admin';

export interface ApiKey {
  id: string;
  name: string;
  mask: { prefix: string; maskedValuePrefix: string; maskedValueSuffix: string };
  createdAt: string;
  lastUsed: string | null;
  scopes: Scope[];
  readOnly: boolean;
  expiresAt: string | null;
  networks: string[];
}

export interface CreatedKey extends ApiKey {
  key: string;
}

export interface Session {
  team: { teamID: string; name: string };
  domain: string;
  version: string;
}

export interface Volume {
  volumeID: string;
  name: string;
  state?: 'making' | 'failed' | null;
}

export interface VolumeUsage {
  bytes: number;
  entries: number;
}

export interface VolumeEntry {
  name: string;
  path: string;
  type: 'file' | 'directory' | 'symlink' | 'unknown';
  size: number;
  mode: number;
  uid: number;
  gid: number;
  mtime: string;
  target?: string | null;
}

export interface SandboxEvent {
  id: string;
  type: string;
  timestamp: string;
  eventData?: Record<string, unknown> | null;
  sandboxId: string;
  sandboxTemplateId: string;
  sandboxBuildId: string;
}

export interface Webhook {
  id: string;
  name: string;
  url: string;
  enabled: boolean;
  events: string[];
  createdAt: string;
  disabledReason?: string | null;
}

export type DeliveryStatus = 'pending' | 'success' | 'failed';

export interface DeliveryAttempt {
  id: string;
  status: DeliveryStatus;
  timestamp: string;
  durationMs: number;
  errorClass?: string | null;
  errorMessage?: string | null;
  requestBody: string;
  responseBody?: string | null;
  responseHttpStatusCode?: number | null;
}

export interface Delivery {
  eventId: string;
  eventType: string;
  sandboxId: string;
  status: DeliveryStatus;
  attempts: DeliveryAttempt[];
}

export interface WebhookStats {
  total: number;
  failed: number;
  durationMs: { minimum: number; average: number; maximum: number };
}

export type NodeStatus = 'ready' | 'draining' | 'connecting' | 'unhealthy' | 'standby';

export interface Node {
  id: string;
  name: string;
  address: string;
  labels: Record<string, string>;
  generation: number;
  status: NodeStatus;
  statusChangedAt: string;
  lastHeartbeatAt?: string | null;
  sandboxCount: number;
  sandboxStartingCount?: number | null;
  maxSandboxes: number;
  outstandingWork: number;
  createSuccesses: number;
  createFails: number;
  version: string;
  commit: string;
  machineInfo: { cpuModelName: string; cpuArchitecture: string };
  metrics: {
    allocatedCPU: number;
    cpuPercent: number;
    cpuCount: number;
    allocatedMemoryBytes: number;
    memoryUsedBytes: number;
    memoryTotalBytes: number;
    disks: { mountPoint: string; device: string; filesystemType: string; usedBytes: number; totalBytes: number }[];
  };
}

export interface Usage {
  executions: number;
  vcpuSeconds: number;
  memoryGiBSeconds: number;
}

export interface SandboxUsage extends Usage {
  sandboxID: string;
}

export interface TeamMetric {
  timestampUnix: number;
  concurrentSandboxes: number;
  sandboxStartRate: number;
}

export interface TeamMaximum {
  timestampUnix: number;
  value: number;
}
