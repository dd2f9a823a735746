//! A wire between two machines: what one sends as an Ethernet frame the other receives, and nobody else does.

use std::path::{Path, PathBuf};

/// One end of it: a Unix datagram socket that QEMU makes, and the one that it sends to.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    own: PathBuf,
    far: PathBuf,
    number: u8,
}

impl Wire {
    /// Both ends, of the machines 1 and 2. The folder must be empty, and its path short: an address of a Unix socket
    /// has 108 bytes (unix(7)).
    pub(crate) fn pair(folder: &Path) -> [Self; 2] {
        let [one, two] = ["1", "2"].map(|end| folder.join(end));
        [
            Self {
                own: one.clone(),
                far: two.clone(),
                number: 1,
            },
            Self {
                own: two,
                far: one,
                number: 2,
            },
        ]
    }

    /// Words for QEMU: a network card of this machine's own address at this end.
    pub(super) fn words(&self) -> [String; 4] {
        [
            "-netdev".to_owned(),
            format!(
                "dgram,id=wire,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                self.own.display(),
                self.far.display()
            ),
            "-device".to_owned(),
            // The bit 2 of the first byte: an address that no manufacturer gave.
            format!(
                "virtio-net-pci,netdev=wire,mac=52:54:00:00:00:{:02x}",
                self.number
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_sends_to_the_other_and_has_an_address_of_its_own() {
        let [one, two] = Wire::pair(Path::new("/tmp/a"));
        assert_eq!(one.own, two.far);
        assert_eq!(one.far, two.own);
        assert_ne!(one.own, one.far);
        assert_ne!(one.words()[3], two.words()[3]);
        assert_eq!(
            one.words()[1],
            "dgram,id=wire,local.type=unix,local.path=/tmp/a/1,remote.type=unix,remote.path=/tmp/a/2"
        );
    }
}
