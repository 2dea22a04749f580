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
