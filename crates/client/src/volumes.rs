//! Volumes: looking, making, copying, deleting.

use crate::Result;
use crate::control::ControlClient;
use bytes::Bytes;
use connectrpc::client::full_body;
use hearth_ids::VolumeId;
use hearth_wire::{CopyVolume, NewVolume, Volume, VolumeAndToken, VolumeUsage};
use http::Method;

impl ControlClient {
    /// The team's volumes, in order of their names.
    pub async fn volume_list(&self) -> Result<Vec<Volume>> {
        self.get("/volumes").await
    }

    /// Makes an empty volume.
    pub async fn volume_create(&self, name: &str) -> Result<VolumeAndToken> {
        let name = name.to_owned();
        self.exchange(Method::POST, "/volumes", &NewVolume { name })
            .await
    }

    /// One volume; an error with status 404 when there is none.
    pub async fn volume(&self, id: VolumeId) -> Result<VolumeAndToken> {
        self.get(&format!("/volumes/{id}")).await
    }

    /// How much a volume holds. The server looks at every entry of it.
    pub async fn volume_usage(&self, id: VolumeId) -> Result<VolumeUsage> {
        self.get(&format!("/volumes/{id}/usage")).await
    }

    /// Begins to copy a volume; the copy can be used when it has no state any more.
    pub async fn volume_copy(&self, id: VolumeId, name: &str) -> Result<VolumeAndToken> {
        let (path, name) = (format!("/volumes/{id}/copy"), name.to_owned());
        self.exchange(Method::POST, &path, &CopyVolume { name })
            .await
    }

    /// Deletes a volume. False when there was none.
    pub async fn volume_delete(&self, id: VolumeId) -> Result<bool> {
        let path = format!("/volumes/{id}");
        let request = self.request(Method::DELETE, &path, full_body(Bytes::new()))?;
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
