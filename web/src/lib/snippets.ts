// Code for this very Hearth, to take along.

const shell = 'eval "$(sudo hearth env)"   # on the server: key, domain, certificates';

export const firstSandbox = {
  Python: `# ${shell}
# pip install e2b
from e2b import Sandbox

sandbox = Sandbox.create()
print(sandbox.commands.run("uname -a").stdout)
sandbox.kill()`,
  JavaScript: `// ${shell}
// npm install e2b
import { Sandbox } from 'e2b'

const sandbox = await Sandbox.create()
console.log((await sandbox.commands.run('uname -a')).stdout)
await sandbox.kill()`,
  Shell: `${shell}
npx @e2b/cli sandbox create base`,
};

export const firstTemplate = {
  Python: `# ${shell}
from e2b import Template

template = (
    Template()
    .from_image("python:3.12")
    .pip_install("requests")
)
Template.build(template, "my-template", cpu_count=1, memory_mb=512)`,
  JavaScript: `// ${shell}
import { Template } from 'e2b'

const template = Template().fromImage('node:22').npmInstall('lodash')
await Template.build(template, 'my-template', { cpuCount: 1, memoryMB: 512 })`,
};

export const connectTo = (id: string) => ({
  Python: `from e2b import Sandbox

sandbox = Sandbox.connect("${id}")
print(sandbox.commands.run("ls -la").stdout)`,
  JavaScript: `import { Sandbox } from 'e2b'

const sandbox = await Sandbox.connect('${id}')
console.log((await sandbox.commands.run('ls -la')).stdout)`,
  Shell: `npx @e2b/cli sandbox connect ${id}`,
});

export const secretRule = (name: string) => ({
  Python: `from e2b import Sandbox

# The sandbox never sees the value: the proxy of its host puts it into requests.
Sandbox.create(network={
    "rules": {"api.example.com": [{"transform": {"headers": {"Authorization": "Bearer $\{e2b.secrets.${name}}"}}}]},
})`,
});

export const firstVolume = (name: string) => ({
  Python: `# ${shell}
from e2b import Sandbox, Volume

volume = Volume.create("${name}")
sandbox = Sandbox.create(volume_mounts={"/mnt/${name}": volume})
sandbox.commands.run("date > /mnt/${name}/date.txt")`,
  JavaScript: `// ${shell}
import { Sandbox, Volume } from 'e2b'

const volume = await Volume.create('${name}')
const sandbox = await Sandbox.create({ volumeMounts: { '/mnt/${name}': volume } })
await sandbox.commands.run('date > /mnt/${name}/date.txt')`,
  Shell: `sudo hearth volume create ${name}
sudo hearth volume du ${name}`,
});

export const mountVolume = (name: string) => ({
  Python: `from e2b import Sandbox

sandbox = Sandbox.create(volume_mounts={"/mnt/${name}": "${name}"})
print(sandbox.commands.run("ls -la /mnt/${name}").stdout)`,
  JavaScript: `import { Sandbox } from 'e2b'

const sandbox = await Sandbox.create({ volumeMounts: { '/mnt/${name}': '${name}' } })
console.log((await sandbox.commands.run('ls -la /mnt/${name}')).stdout)`,
});

export const readEvents = (sandbox?: string) => ({
  Shell: `${shell}
curl -H "X-API-Key: $E2B_API_KEY" \\
  "$E2B_API_URL/events/sandboxes${sandbox ? `/${sandbox}` : ''}?limit=5"`,
});

export const firstWebhook = {
  Shell: `${shell}
curl -H "X-API-Key: $E2B_API_KEY" -H "Content-Type: application/json" \\
  "$E2B_API_URL/events/webhooks" -d '{
    "name": "ends", "url": "https://example.com/hook",
    "events": ["sandbox.lifecycle.killed"],
    "signatureSecret": "'"$(openssl rand -hex 32)"'"}'`,
};

export const readUsage = {
  Shell: `${shell}
curl -H "X-API-Key: $E2B_API_KEY" "$E2B_API_URL/usage/sandboxes?format=csv"`,
  Operator: `sudo hearth usage                      # every team
sudo hearth usage --team TEAM --csv    # every sandbox of one
sudo hearth team limits TEAM           # what it may use, and to change that`,
};

export const operateNodes = {
  Shell: `sudo hearth node ls
sudo hearth node drain NAME      # no new sandboxes, and waits until none runs
sudo hearth node uncordon NAME`,
  'A key for this page': `sudo hearth key create --name nodes --scope admin`,
};
