//! nginx with a configuration that suits a streaming proxy: as many workers as
//! cores, connections to the server kept, nothing written to disk or logs.

use crate::processes::processor_time;
use anyhow::{Context, bail};
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(10);

pub struct Nginx {
    child: Child,
    pub port: u16,
}

impl Nginx {
    /// `None` when there is no nginx on this machine.
    pub fn start(folder: &Path, upstream: u16) -> anyhow::Result<Option<Self>> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
            .into_iter()
            .find(|path| Path::new(path).is_file());
        let Some(program) = program else {
            return Ok(None);
        };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration(folder, port, upstream))?;
        let mut child = Command::new(program)
            .args([
                "-c".as_ref(),
                file.as_os_str(),
                "-p".as_ref(),
                folder.as_os_str(),
            ])
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .context("start nginx")?;
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if child.try_wait()?.is_some() || begun.elapsed() > START_LIMIT {
                let _ = child.kill();
                child.wait()?;
                bail!("nginx did not start");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Self { child, port }))
    }
}

impl Nginx {
    /// What its processes have used of the processors so far.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let mut time = processor_time(pid)?;
        for worker in children.split_whitespace() {
            time += processor_time(worker.parse()?)?;
        }
        Ok(time)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked to end, so that its workers do, too.
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, port: u16, upstream: u16) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream echo {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass http://echo;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_buffer_size 64k;
      proxy_buffers 16 64k;
      proxy_busy_buffers_size 128k;
      proxy_max_temp_file_size 0;
    }}
  }}
}}
"
    )
}
