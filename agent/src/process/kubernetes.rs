//! What a pod's name tells without asking the API server.
//!
//! Input: the host name that a container was given. Output: the pod's name and that of what controls it, only where the
//! name has a shape that no person would choose. Labels, namespaces and annotations need the API and are not known here.

/// Letters of generated suffixes: no vowels and no digits that look like letters, so that no words arise
/// (Kubernetes, `k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The controller's name in a pod's name: `shop` in `shop-7d4b9c6f5d-x2x9z` (Deployment), `shop-x2x9z` (DaemonSet, Job)
/// or `shop-0` (StatefulSet); `None` for names of any other shape.
#[must_use]
pub fn controller_of(pod: &str) -> Option<&str> {
    let (rest, last) = pod.rsplit_once('-')?;
    let name = if is_generated(last, 5..=5) {
        match rest.rsplit_once('-') {
            // The hash of the pod template. It always has digits, or nearly: a word of that alphabet could be a name.
            Some((name, hash))
                if is_generated(hash, 8..=10) && hash.bytes().any(|byte| byte.is_ascii_digit()) =>
            {
                name
            }
            _ => rest,
        }
    } else if last.len() <= 4 && !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
    {
        rest
    } else {
        return None;
    };
    (!name.is_empty()).then_some(name)
}

fn is_generated(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_controller_in_names_that_kubernetes_made() {
        assert_eq!(controller_of("shop-7d4b9c6f5d-x2x9z"), Some("shop"));
        assert_eq!(
            controller_of("shop-cart-7d4b9c6f5-x2x9z"),
            Some("shop-cart")
        );
        assert_eq!(controller_of("node-exporter-x2x9z"), Some("node-exporter"));
        assert_eq!(controller_of("postgres-0"), Some("postgres"));
    }

    #[test]
    fn leaves_names_that_people_chose() {
        for name in [
            "shop",
            "web-server",
            "ip-10-0-3-17.ec2.internal",
            "shop-",
            "-x2x9z",
            "api-production",
            "db-20260101",
            "",
        ] {
            assert_eq!(controller_of(name), None, "{name}");
        }
    }
}
