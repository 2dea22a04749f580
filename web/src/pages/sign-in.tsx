import { useMutation, useQueryClient } from '@tanstack/react-query';
import { Flame } from 'lucide-react';
import { useState } from 'react';
import { Button, Field, Input, Problem } from '../components/ui';
import { api } from '../lib/api';
import { session } from '../lib/queries';
import type { Session } from '../lib/types';

const local = ['localhost', '127.0.0.1', '[::1]'];

export function SignIn() {
  const client = useQueryClient();
  const [key, setKey] = useState('');
  const signIn = useMutation({
    mutationFn: () => api.post<Session>('/web/session', { apiKey: key }),
    onSuccess: (answer) => client.setQueryData(session.queryKey, answer),
  });
  const readable = window.location.protocol === 'http:' && !local.includes(window.location.hostname);
  return (
    <main className="grid min-h-dvh place-items-center p-4">
      <form
        className="w-full max-w-md space-y-5 rounded-lg border border-line bg-surface p-6"
        onSubmit={(event) => {
          event.preventDefault();
          signIn.mutate();
        }}
      >
        <div className="flex items-center gap-2">
          <Flame className="size-6 text-accent" aria-hidden />
          <h1 className="text-lg font-semibold">Sign in to Hearth</h1>
        </div>
        <Field label="API key" hint={<>Begins with <code>e2b_</code>. On the server, <code>sudo hearth env</code> prints one.</>}>
          {(id) => <Input id={id} type="password" autoComplete="current-password" autoFocus required placeholder="e2b_…" value={key} onChange={(event) => setKey(event.target.value)} />}
        </Field>
        {readable && (
          <p role="note" className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">
            This connection is not encrypted: others on the network could read the key. Prefer the HTTPS address.
          </p>
        )}
        {signIn.error && <div className="-mx-4"><Problem error={signIn.error} /></div>}
        <Button type="submit" look="primary" className="w-full" busy={signIn.isPending}>Sign in</Button>
        <p className="text-xs text-muted">The key stays on the server; the browser gets a cookie that ends after 12 hours without use.</p>
      </form>
    </main>
  );
}
