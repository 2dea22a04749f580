import { useQuery } from '@tanstack/react-query';
import { useSignOut } from '../components/shell';
import { Button, Card, CopyText, Facts, Field, PageHead, Select, Snippets } from '../components/ui';
import { session } from '../lib/queries';
import { firstSandbox } from '../lib/snippets';
import { type Theme, setTheme, useTheme } from '../lib/theme';

export default function Settings() {
  const theme = useTheme();
  const signedIn = useQuery(session).data;
  const signOut = useSignOut();
  return (
    <>
      <PageHead title="Settings" />
      <div className="max-w-3xl space-y-4">
        <Card title="Appearance">
          <div className="max-w-xs p-4">
            <Field label="Theme">
              {(id) => (
                <Select id={id} value={theme} onChange={(value) => setTheme(value as Theme)} options={[{ value: 'system', label: 'As the system' }, { value: 'light', label: 'Light' }, { value: 'dark', label: 'Dark' }]} />
              )}
            </Field>
          </div>
        </Card>
        {signedIn && (
          <Card title="Session" actions={<Button onClick={signOut}>Sign out</Button>}>
            <Facts facts={[['Team', signedIn.team.name], ['Team ID', <CopyText text={signedIn.team.teamID} />], ['Domain (E2B_DOMAIN)', <CopyText text={signedIn.domain} />], ['Hearth', signedIn.version]]} />
          </Card>
        )}
        <Card title="Use it from code"><div className="p-4"><Snippets snippets={firstSandbox} /></div></Card>
      </div>
    </>
  );
}
