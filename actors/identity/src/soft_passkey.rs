//! An authenticator in software, for tests and demonstrations: it does what a browser and a passkey
//! do together, in the JSON of WebAuthn Level 3. The server itself never uses it.
//!
//! Deliberate limits: one credential with an ES256 key, kept in memory; attestation `none`; it
//! asks nobody. What fails answers `None`.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ciborium::Value as Cbor;
use serde_json::{Value, json};

/// See the module's head.
pub struct SoftPasskey {
    pair: EcdsaKeyPair,
    id: [u8; 16],
    counter: u32,
    is_present: bool,
}

impl Default for SoftPasskey {
    fn default() -> Self {
        Self::new()
    }
}

impl SoftPasskey {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let mut id = [0; 16];
        let filled = rand::fill(&mut id);
        match (pair, filled) {
            (Ok(pair), Ok(())) => Self { pair, id, counter: 0, is_present: true },
            _ => panic!("no key for a passkey"),
        }
    }

    /// The same one, which nobody touches.
    #[must_use]
    pub fn without_presence(mut self) -> Self {
        self.is_present = false;
        self
    }

    /// The credential's id, base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.id)
    }

    /// Answers creation options, in a page of `origin`.
    pub fn create(&mut self, options: &Value, origin: &str) -> Option<Value> {
        let client_data = client_data("webauthn.create", options, origin)?;
        let mut data = self.authenticator_data(options["rp"]["id"].as_str()?, 0x40);
        data.extend([0; 16]);
        data.extend(16u16.to_be_bytes());
        data.extend(self.id);
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..)?.split_at_checked(32)?;
        let key = [
            (1, Cbor::from(2)),
            (3, Cbor::from(-7)),
            (-1, Cbor::from(1)),
            (-2, Cbor::from(x)),
            (-3, Cbor::from(y)),
        ];
        let key = key.map(|(label, value)| (Cbor::from(label), value));
        ciborium::into_writer(&Cbor::Map(key.to_vec()), &mut data).ok()?;
        let object = [
            ("fmt", Cbor::from("none")),
            ("attStmt", Cbor::Map(Vec::new())),
            ("authData", Cbor::from(data)),
        ];
        let object = object.map(|(name, value)| (Cbor::from(name), value));
        let mut bytes = Vec::new();
        ciborium::into_writer(&Cbor::Map(object.to_vec()), &mut bytes).ok()?;
        Some(json!({
            "id": self.id(), "rawId": self.id(), "type": "public-key",
            "response": {
                "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
                "attestationObject": URL_SAFE_NO_PAD.encode(bytes),
                "transports": ["internal"],
            },
            "clientExtensionResults": {},
        }))
    }

    /// Answers request options that allow this credential, in a page of `origin`.
    pub fn get(&mut self, options: &Value, origin: &str) -> Option<Value> {
        let allowed = options["allowCredentials"].as_array()?;
        allowed.iter().find(|credential| credential["id"] == self.id())?;
        self.counter += 1;
        let client_data = client_data("webauthn.get", options, origin)?;
        let data = self.authenticator_data(options["rpId"].as_str()?, 0);
        let signed = [&data, digest(&SHA256, client_data.as_bytes()).as_ref()].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &signed).ok()?;
        Some(json!({
            "id": self.id(), "rawId": self.id(), "type": "public-key",
            "response": {
                "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
                "authenticatorData": URL_SAFE_NO_PAD.encode(data),
                "signature": URL_SAFE_NO_PAD.encode(signature.as_ref()),
                "userHandle": null,
            },
            "clientExtensionResults": {},
        }))
    }

    fn authenticator_data(&self, rp_id: &str, flags: u8) -> Vec<u8> {
        let mut data = digest(&SHA256, rp_id.as_bytes()).as_ref().to_vec();
        data.push(flags | u8::from(self.is_present));
        data.extend(self.counter.to_be_bytes());
        data
    }
}

fn client_data(kind: &str, options: &Value, origin: &str) -> Option<String> {
    let challenge = options["challenge"].as_str()?;
    let data = json!({
        "type": kind, "challenge": challenge, "origin": origin, "crossOrigin": false,
    });
    Some(data.to_string())
}
