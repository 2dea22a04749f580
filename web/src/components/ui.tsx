// The interface's small set of parts, on Radix' primitives.
import { clsx } from 'clsx';
import { Check, ChevronDown, Copy, LoaderCircle, X } from 'lucide-react';
import { AlertDialog, Dialog as RadixDialog, DropdownMenu, Select as RadixSelect } from 'radix-ui';
import { type ComponentProps, type ReactNode, useId, useState } from 'react';
import { toast } from 'sonner';

type Look = 'primary' | 'plain' | 'danger' | 'quiet';

const looks: Record<Look, string> = {
  primary: 'bg-accent text-accent-text hover:opacity-90 border-transparent',
  plain: 'bg-surface text-text border-line hover:bg-raised',
  danger: 'bg-bad-soft text-bad border-transparent hover:opacity-85',
  quiet: 'bg-transparent text-muted border-transparent hover:bg-raised hover:text-text',
};

export function Button({ look = 'plain', busy, className, children, disabled, type = 'button', ...rest }: ComponentProps<'button'> & { look?: Look; busy?: boolean }) {
  return (
    <button
      type={type}
      disabled={disabled || busy}
      className={clsx(
        'inline-flex min-h-9 items-center justify-center gap-2 rounded-md border px-3 py-1.5 text-sm font-medium whitespace-nowrap transition disabled:cursor-not-allowed disabled:opacity-55',
        looks[look],
        className,
      )}
      {...rest}
    >
      {busy && <LoaderCircle className="size-4 animate-spin" aria-hidden />}
      {children}
    </button>
  );
}

export function IconButton({ label, children, className, ...rest }: ComponentProps<'button'> & { label: string }) {
  return (
    <button type="button" aria-label={label} title={label} className={clsx('inline-flex size-9 items-center justify-center rounded-md text-muted hover:bg-raised hover:text-text disabled:opacity-50', className)} {...rest}>
      {children}
    </button>
  );
}

export function Card({ title, actions, children, className }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; className?: string }) {
  return (
    <section className={clsx('rounded-lg border border-line bg-surface', className)}>
      {title && (
        <div className="flex min-h-12 flex-wrap items-center justify-between gap-2 border-b border-line px-4 py-2">
          <h2 className="text-sm font-semibold">{title}</h2>
          <div className="flex flex-wrap gap-2">{actions}</div>
        </div>
      )}
      {children}
    </section>
  );
}

const tones = {
  ok: 'bg-ok-soft text-ok',
  warn: 'bg-warn-soft text-warn',
  bad: 'bg-bad-soft text-bad',
  plain: 'bg-raised text-muted',
  accent: 'bg-accent-soft text-accent',
};

export function Badge({ tone = 'plain', children }: { tone?: keyof typeof tones; children: ReactNode }) {
  return <span className={clsx('inline-flex items-center rounded-full px-2 py-0.5 text-xs font-medium whitespace-nowrap', tones[tone])}>{children}</span>;
}

export const stateTone = (state: string) =>
  (({ running: 'ok', ready: 'ok', paused: 'warn', waiting: 'warn', building: 'accent', error: 'bad', draining: 'warn', standby: 'plain', connecting: 'accent', unhealthy: 'bad' }) as const)[state as 'running'] ?? 'plain';

export function Field({ label, hint, children }: { label: string; hint?: ReactNode; children: (id: string) => ReactNode }) {
  const id = useId();
  return (
    <div className="space-y-1">
      <label htmlFor={id} className="block text-sm font-medium">{label}</label>
      {children(id)}
      {hint && <p className="text-xs text-muted">{hint}</p>}
    </div>
  );
}

const box = 'w-full rounded-md border border-line bg-bg px-3 py-2 text-sm text-text placeholder:text-muted';

export const Input = ({ className, ...rest }: ComponentProps<'input'>) => <input className={clsx(box, 'min-h-9', className)} {...rest} />;
export const Textarea = ({ className, ...rest }: ComponentProps<'textarea'>) => <textarea className={clsx(box, 'mono', className)} spellCheck={false} {...rest} />;

export function Switch({ label, hint, checked, onChange }: { label: string; hint?: string; checked: boolean; onChange: (checked: boolean) => void }) {
  return (
    <label className="flex cursor-pointer items-start gap-3">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.target.checked)} className="mt-0.5 size-4 shrink-0 accent-(--accent)" />
      <span>
        <span className="block text-sm font-medium">{label}</span>
        {hint && <span className="block text-xs text-muted">{hint}</span>}
      </span>
    </label>
  );
}

export function Select({ id, label, value, onChange, options }: { id?: string; label?: string; value: string; onChange: (value: string) => void; options: { value: string; label: string }[] }) {
  return (
    <RadixSelect.Root value={value} onValueChange={onChange}>
      <RadixSelect.Trigger id={id} aria-label={label} className={clsx(box, 'inline-flex min-h-9 items-center justify-between gap-2 text-left')}>
        <RadixSelect.Value />
        <ChevronDown className="size-4 shrink-0 text-muted" aria-hidden />
      </RadixSelect.Trigger>
      <RadixSelect.Portal>
        <RadixSelect.Content position="popper" sideOffset={4} className="z-50 max-h-80 min-w-(--radix-select-trigger-width) overflow-hidden rounded-md border border-line bg-surface shadow-lg">
          <RadixSelect.Viewport className="p-1">
            {options.map((option) => (
              <RadixSelect.Item key={option.value} value={option.value} className="flex cursor-pointer items-center justify-between gap-4 rounded px-2 py-1.5 text-sm outline-none data-highlighted:bg-raised">
                <RadixSelect.ItemText>{option.label}</RadixSelect.ItemText>
                <RadixSelect.ItemIndicator><Check className="size-4" aria-hidden /></RadixSelect.ItemIndicator>
              </RadixSelect.Item>
            ))}
          </RadixSelect.Viewport>
        </RadixSelect.Content>
      </RadixSelect.Portal>
    </RadixSelect.Root>
  );
}

export function Dialog({ title, description, open, onOpenChange, children }: { title: string; description?: string; open: boolean; onOpenChange: (open: boolean) => void; children: ReactNode }) {
  return (
    <RadixDialog.Root open={open} onOpenChange={onOpenChange}>
      <RadixDialog.Portal>
        <RadixDialog.Overlay className="fixed inset-0 z-40 bg-black/50" />
        <RadixDialog.Content {...(description ? {} : { 'aria-describedby': undefined })} className="fixed top-1/2 left-1/2 z-50 max-h-[92dvh] w-[min(34rem,94vw)] -translate-x-1/2 -translate-y-1/2 overflow-y-auto rounded-lg border border-line bg-surface p-5 shadow-xl">
          <div className="mb-4 flex items-start justify-between gap-4">
            <div>
              <RadixDialog.Title className="text-base font-semibold">{title}</RadixDialog.Title>
              {description && <RadixDialog.Description className="mt-1 text-sm text-muted">{description}</RadixDialog.Description>}
            </div>
            <RadixDialog.Close asChild><IconButton label="Close"><X className="size-4" /></IconButton></RadixDialog.Close>
          </div>
          {children}
        </RadixDialog.Content>
      </RadixDialog.Portal>
    </RadixDialog.Root>
  );
}

// Asks before what cannot be undone.
export function Confirm({ title, text, action, onConfirm, open, onOpenChange, busy }: { title: string; text: ReactNode; action: string; onConfirm: () => void; open: boolean; onOpenChange: (open: boolean) => void; busy?: boolean }) {
  return (
    <AlertDialog.Root open={open} onOpenChange={onOpenChange}>
      <AlertDialog.Portal>
        <AlertDialog.Overlay className="fixed inset-0 z-40 bg-black/50" />
        <AlertDialog.Content className="fixed top-1/2 left-1/2 z-50 w-[min(28rem,94vw)] -translate-x-1/2 -translate-y-1/2 rounded-lg border border-line bg-surface p-5 shadow-xl">
          <AlertDialog.Title className="text-base font-semibold">{title}</AlertDialog.Title>
          <AlertDialog.Description asChild><div className="mt-2 text-sm break-words text-muted">{text}</div></AlertDialog.Description>
          <div className="mt-5 flex justify-end gap-2">
            <AlertDialog.Cancel asChild><Button>Cancel</Button></AlertDialog.Cancel>
            <Button look="danger" busy={busy} onClick={onConfirm}>{action}</Button>
          </div>
        </AlertDialog.Content>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  );
}

export interface MenuItem {
  label: string;
  icon?: ReactNode;
  danger?: boolean;
  disabled?: boolean;
  onSelect: () => void;
}

export function Menu({ trigger, items }: { trigger: ReactNode; items: MenuItem[] }) {
  return (
    <DropdownMenu.Root>
      <DropdownMenu.Trigger asChild>{trigger}</DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content align="end" sideOffset={4} className="z-50 min-w-44 rounded-md border border-line bg-surface p-1 shadow-lg">
          {items.map((item) => (
            <DropdownMenu.Item
              key={item.label}
              disabled={item.disabled}
              onSelect={item.onSelect}
              className={clsx('flex items-center gap-2 rounded px-2 py-1.5 text-sm outline-none data-disabled:opacity-50 data-highlighted:bg-raised', item.danger && 'text-bad')}
            >
              {item.icon}
              {item.label}
            </DropdownMenu.Item>
          ))}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}

export async function copy(text: string) {
  try {
    await navigator.clipboard.writeText(text);
    toast.success('Copied');
  } catch {
    toast.error('The browser does not let this page copy; select the text and copy it yourself');
  }
}

export function CopyText({ text, className, whole }: { text: string; className?: string; whole?: boolean }) {
  return (
    <span className={clsx('inline-flex max-w-full items-center gap-1', className)}>
      <code className={clsx('text-[13px]', whole ? 'break-all' : 'truncate')}>{text}</code>
      <button type="button" aria-label={`Copy ${text}`} className="rounded p-1 text-muted hover:bg-raised hover:text-text" onClick={() => copy(text)}>
        <Copy className="size-3.5" aria-hidden />
      </button>
    </span>
  );
}

// Code to take along, with a tab for each language.
export function Snippets({ snippets }: { snippets: Record<string, string> }) {
  const names = Object.keys(snippets);
  const [chosen, choose] = useState(names[0] ?? '');
  const code = snippets[chosen] ?? '';
  return (
    <div className="w-full overflow-hidden rounded-md border border-line text-left">
      <div className="flex items-center justify-between border-b border-line bg-raised px-2 py-1">
        <div className="flex gap-1" role="group" aria-label="Language">
          {names.map((name) => (
            <button key={name} type="button" aria-pressed={name === chosen} onClick={() => choose(name)} className={clsx('rounded px-2 py-1 text-xs font-medium', name === chosen ? 'bg-surface text-text' : 'text-muted hover:text-text')}>
              {name}
            </button>
          ))}
        </div>
        <IconButton label="Copy the code" onClick={() => copy(code)}><Copy className="size-4" /></IconButton>
      </div>
      <pre tabIndex={0} aria-label={`${chosen} code`} className="overflow-x-auto bg-surface p-3 text-[13px] leading-relaxed"><code>{code}</code></pre>
    </div>
  );
}

export function Empty({ title, page, children }: { title: string; page?: boolean; children?: ReactNode }) {
  const Heading = page ? 'h1' : 'h3';
  return (
    <div className="mx-auto flex max-w-2xl flex-col items-center gap-4 px-4 py-10 text-center">
      <Heading className="text-base font-semibold">{title}</Heading>
      {children}
    </div>
  );
}

export function Problem({ error, retry }: { error: unknown; retry?: () => void }) {
  return (
    <div role="alert" className="m-4 flex flex-wrap items-center justify-between gap-3 rounded-md bg-bad-soft px-4 py-3 text-sm text-bad">
      <span className="min-w-0 break-words">{errorText(error)}</span>
      {retry && <Button onClick={retry}>Try again</Button>}
    </div>
  );
}

export const errorText = (error: unknown) => (error instanceof Error ? error.message : String(error));

export const Loading = () => (
  <div role="status" className="flex items-center justify-center gap-2 p-10 text-sm text-muted">
    <LoaderCircle className="size-4 animate-spin" aria-hidden /> Loading…
  </div>
);

export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="grid grid-cols-1 gap-x-6 gap-y-3 p-4 sm:grid-cols-2 lg:grid-cols-3">
      {facts.map(([name, value]) => (
        <div key={name} className="min-w-0">
          <dt className="text-xs text-muted">{name}</dt>
          <dd className="min-w-0 text-sm break-words">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function PageHead({ title, children }: { title: ReactNode; children?: ReactNode }) {
  return (
    <div className="mb-4 flex flex-wrap items-center justify-between gap-3">
      <h1 className="min-w-0 text-xl font-semibold break-all">{title}</h1>
      <div className="flex flex-wrap gap-2">{children}</div>
    </div>
  );
}

// How much of a whole is in use.
export function Meter({ label, part, text }: { label: string; part: number | undefined; text: string }) {
  return (
    <span className="min-w-0 flex-1">
      <span className="block text-xs text-muted">{label}</span>
      <span className="block truncate text-xs tabular-nums" title={text}>{text}</span>
      <span aria-hidden className="mt-1 block h-1 overflow-hidden rounded bg-line">
        {part !== undefined && <span className="block h-full bg-accent" style={{ width: `${Math.min(100, Math.max(2, part * 100))}%` }} />}
      </span>
    </span>
  );
}
