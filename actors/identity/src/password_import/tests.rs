//! The hashes below are of one password, and were made by other implementations: argon2-cffi,
//! bcrypt, passlib, Django, Werkzeug.

use super::*;
use crate::password::{Hasher, Password, PasswordPolicy, Verdict};

const PASSWORD: &str = "correct horse";
const HASHES: [&str; 15] = [
    "$argon2id$v=19$m=64,t=2,p=2$MDEyMzQ1Njc4OWFiY2RlZg$2+215DJrS9Zd735GAL46Dw",
    "$argon2i$v=19$m=64,t=2,p=2$MDEyMzQ1Njc4OWFiY2RlZg$6KjugYgyUDIt9pUeDL2E9A",
    "$argon2d$v=19$m=64,t=2,p=2$MDEyMzQ1Njc4OWFiY2RlZg$7cDXAzOoxuRROCrat85PAA",
    "argon2$argon2id$v=19$m=64,t=1,p=2$c2FsdHNhbHRzYWx0\
     $RKV1wDWZAqeB+OPU7FjEyJhaygoxF0zckwuENhofGsw",
    "$2b$04$MNyeV.dYLWJm/vsssc7H.OoYGBhs0cxzz2RXuDeAtn7Au4QnxlxqS",
    "bcrypt$$2b$04$2xMgs1aXxHBvnfHr7rdxLexoVyRhyPILwfMAvVan0cGYYUpqiuK6q",
    "$pbkdf2-sha256$i=1000,l=32$MDEyMzQ1Njc4OWFiY2RlZg\
     $cBg8D2DungRB9k76szThf5ehfyBz991ay6PT8Srwk4M",
    "$pbkdf2-sha256$1000$7X0P4dy7t5YyZuxdKyUkBA$k6L.oUbQQ03nfrNlNzs5Lg9m9u7UisbkHGFwjD/LK8Y",
    "$pbkdf2-sha512$1000$WOuds7b2/j8HgHDO.f//fw\
     $dOFF9FppOwaXkVPtteW10urB3uQZlOcfxJ9FlvgHUHF5xw2UE0VjsK1H1Y7n2xkfaOKFLkuUSfL8RFlkH0emuA",
    "pbkdf2_sha256$1000$saltsaltsalt$F7o7+5VTVzFAO998X6s3AHrDsJVdMiIlgndIMe19NvY=",
    "pbkdf2:sha256:1000$ECkLYD711Ko4U6NE\
     $d863ffbe531e12689665a5bf682c317258b8991b8162096c491cd33561064bad",
    "pbkdf2:sha512:1000$ZgEETZRUtMv9wIfQ\
     $ef857d93e294b3a9aa2e8f3349df9769c47ced85ed061b6a991e4698e5fce01d\
     a0ed58f528c80455a5e07899d1d77335f87eb393ac18e2a96f44d1bdbb0ce252",
    "$scrypt$ln=10,r=8,p=1$WGstBQBgzLl3bk1pDeF8Dw\
     $kn3RPErvxzkGJlq+YjllzR1xXuptmFBfzJxQIAavyvo",
    "scrypt:1024:8:1$oSz2ScNV5oqunUiK\
     $a4a3da349ac9b9921a55f349d734f6fd44d192a9b36158f88419576c86e3a2c3\
     d6aceff87480f1fb58c66da9219fbedc7441fc8e540a53c25940c504fad9a1e4",
    "scrypt$1024$saltsaltsalt$8$1$JLoeRlAiVzz/fmBbrb3a7QkuecDu7wE6R0zHHE5DC7gKJyAVj5OnhQOBnVmH\
     mpxqGLg6VN+e0Is9JxtChIaQIA==",
];

fn password(text: &str) -> Password {
    Password::for_login(text.to_owned()).unwrap()
}

#[tokio::test]
async fn every_known_format_is_verified_and_wants_a_new_hash() {
    let policy = PasswordPolicy { memory_kib: 8, passes: 1, lanes: 1 };
    let hasher = Hasher::start_with(policy, 2, 64).unwrap();
    for text in HASHES {
        let stored = import(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let right = hasher.verify(password(PASSWORD), Some(stored.clone())).await.unwrap();
        assert_eq!(right, Verdict::MatchNeedsRehash, "{text}");
        for wrong in ["correct horse ", "Correct horse", "\0", "correct horse\0x"] {
            let wrong = hasher.verify(password(wrong), Some(stored.clone())).await.unwrap();
            assert_eq!(wrong, Verdict::NoMatch, "{text}");
        }
        let again = import(stored.as_str()).unwrap();
        assert_eq!(again, stored, "what is stored is read as it was");
    }
}

#[test]
fn what_costs_too_much_is_refused_before_it_is_computed() {
    let salt = "MDEyMzQ1Njc4OWFiY2RlZg";
    let hash = "cBg8D2DungRB9k76szThf5ehfyBz991ay6PT8Srwk4M";
    for costly in [
        format!("$argon2id$v=19$m=262145,t=1,p=1${salt}${hash}"),
        format!("$argon2id$v=19$m=65536,t=17,p=1${salt}${hash}"),
        format!("$2b$15${}", "a".repeat(53)),
        format!("$pbkdf2-sha256$i=2000001,l=32${salt}${hash}"),
        format!("pbkdf2_sha256$99999999999999$salt${hash}="),
        format!("pbkdf2:sha256:1000001$salt${}", "ab".repeat(64)),
        format!("$scrypt$ln=19,r=8,p=1${salt}${hash}"),
        format!("$scrypt$ln=14,r=8,p=1000${salt}${hash}"),
        format!("$scrypt$ln=255,r=8,p=1${salt}${hash}"),
        format!("scrypt:16:4294967295:4294967295$salt${}", "ab".repeat(32)),
    ] {
        assert_eq!(import(&costly), Err(ImportError::TooCostly), "{costly}");
    }
}

#[test]
fn what_is_no_hash_is_refused() {
    for unknown in [
        "",
        "correct horse",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "sha1$salt$ab",
        "$1$salt$hash",
        "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
        "{SSHA}abc",
        "$6$salt$hash",
        "$2x$04$abc",
        "pbkdf2:md5:1000$salt$abab",
        "pbkdf2_sha1$1000$salt$ab",
        "plain$a$b",
    ] {
        assert_eq!(import(unknown), Err(ImportError::Unknown), "{unknown}");
    }
    let salt = "MDEyMzQ1Njc4OWFiY2RlZg";
    for damaged in [
        "$2b$04$tooshort".to_owned(),
        format!("$2b$03${}", "a".repeat(53)),
        format!("$2b$4${}", "a".repeat(53)),
        "$argon2id$v=19$m=64,t=2,p=2$MDEyMzQ1Njc4OWFiY2RlZg".to_owned(),
        format!("$pbkdf2-sha256$i=1000${salt}$"),
        format!("$pbkdf2-sha256$i=0${salt}$cBg8D2DungRB9k76szThf5ehfyBz991ay6PT8Srwk4M"),
        format!("$pbkdf2-sha256$i=+7${salt}$cBg8D2DungRB9k76szThf5ehfyBz991ay6PT8Srwk4M"),
        format!("pbkdf2:sha256:1000$salt${}", "zz".repeat(32)),
        format!("scrypt:1000:8:1$salt${}", "ab".repeat(32)),
        "x".repeat(HASH_BYTES_MAX + 1),
    ] {
        assert_eq!(import(&damaged), Err(ImportError::Damaged), "{damaged}");
    }
}
