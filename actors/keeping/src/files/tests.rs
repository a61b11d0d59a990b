//! Files as one entity: uploads that end in files, and what they leave behind.

use supervision::testkit::{Given, Then};

use super::*;

const TENANT: TenantId = TenantId(7);

fn app() -> AppId {
    AppId::new("shelf").unwrap()
}

fn begin(upload: u128) -> BeginUpload {
    let (path, content_type) = ("a/b.txt".to_owned(), "text/plain".to_owned());
    let by = Some(UserId(8));
    BeginUpload(Begun { upload, tenant: TENANT, app: app(), path, content_type, by })
}

fn add(upload: u128, number: u32, bytes: usize) -> AddPiece {
    AddPiece(PieceAdded { upload, number, piece: Piece(vec![1; bytes]) })
}

fn commit(upload: u128) -> CommitUpload {
    let key = file_key(TENANT, &app(), "a/b.txt");
    CommitUpload { upload, key, digest: [upload as u8; 32] }
}

fn keys<R>(then: &Then<Files, R>) -> Vec<(&'static str, bool)> {
    then.rows.iter().map(|row| (row.family, row.value.is_some())).collect()
}

/// A file of two pieces, and its row.
fn stored() -> (Given<Files>, Vec<u8>) {
    let given = Given::<Files>::nothing().when(begin(1)).then();
    let given = given.when(add(1, 0, PIECE_BYTES)).then().when(add(1, 1, 5)).then();
    let then = given.when(commit(1));
    assert_eq!(keys(&then), [(FILE_FAMILY, true)]);
    let row = then.rows[0].value.clone().unwrap();
    let (file, given) = then.reply();
    assert_eq!((file.size, file.pieces), (PIECE_BYTES as u64 + 5, 2));
    (given, row)
}

#[test]
fn a_file_is_there_once_its_upload_is_committed() {
    let given = Given::<Files>::nothing().when(begin(1)).then();
    let then = given.when(add(1, 0, 3));
    assert_eq!(keys(&then), [(PIECE_FAMILY, true)]);
    let given = then.then();
    assert_eq!(given.state().used(), (0, 3), "what comes in counts before it is there");
    let (_, given) = given.when(commit(1)).reply();
    assert_eq!(given.state().used(), (1, 3));
    let (code, _) = given.when(commit(1)).refused();
    assert_eq!(code, "upload_ended");
}

#[test]
fn another_file_at_the_same_path_takes_the_place_of_the_first() {
    let (given, row) = stored();
    let given = given.when(begin(2)).then().when(add(2, 0, 9)).then();
    let then = given.row(FILE_FAMILY, &commit(2).key, &row).when(commit(2));
    assert_eq!(keys(&then), [(FILE_FAMILY, true), (PIECE_FAMILY, false), (PIECE_FAMILY, false)]);
    assert_eq!(then.then().state().used(), (1, 9));
}

#[test]
fn a_file_is_removed_with_its_pieces() {
    let (given, row) = stored();
    let path = FilePath::new("/a//b.txt").unwrap();
    let remove = RemoveFile { tenant: TENANT, app: app(), path };
    let then = given.row(FILE_FAMILY, &remove.key(), &row).when(remove.clone());
    assert_eq!(keys(&then), [(FILE_FAMILY, false), (PIECE_FAMILY, false), (PIECE_FAMILY, false)]);
    let given = then.then();
    assert_eq!(given.state().used(), (0, 0));
    assert_eq!(given.when(remove).refused().0, "not_found");
}

#[test]
fn what_an_upload_left_behind_is_removed() {
    let given = Given::<Files>::nothing().when(begin(1)).then().when(add(1, 0, 3)).then();
    let then = given.when(GiveUpUpload(1));
    assert_eq!(keys(&then), [(PIECE_FAMILY, false)]);
    let then = then.then().when(GiveUpUpload(1));
    assert!(then.events.is_empty());
    let given = then.then().when(begin(2)).then().when(add(2, 0, 3)).then();
    let given = given.later_ms(UPLOAD_MS_MAX - 1).when_due();
    assert!(given.events.is_empty());
    let then = given.then().later_ms(1).when_due();
    assert_eq!(keys(&then), [(PIECE_FAMILY, false)]);
    let (code, given) = then.then().when(add(2, 1, 3)).refused();
    assert_eq!((code.as_str(), given.state().used()), ("upload_ended", (0, 0)));
}

#[test]
fn files_and_uploads_have_their_limits() {
    let given = (0..UPLOADS_MAX as u128)
        .fold(Given::<Files>::nothing(), |given, id| given.when(begin(id)).then());
    let (code, given) = given.when(begin(99)).refused();
    assert_eq!(code, "too_many_uploads");
    let pieces = u32::try_from(FILE_BYTES_MAX / PIECE_BYTES as u64).unwrap();
    let given =
        (0..pieces).fold(given, |given, number| given.when(add(0, number, PIECE_BYTES)).then());
    let (code, given) = given.when(add(0, pieces, 1)).refused();
    assert_eq!(code, FILE_TOO_LARGE);
    assert_eq!(given.when(add(1, 1, 1)).refused().0, "validation_error", "out of turn");
    let mut files = Files { bytes: TENANT_BYTES_MAX - 3, ..Files::default() };
    let BeginUpload(begun) = begin(1);
    files.apply(&FilesEvent::Begun(begun), Timestamp(0));
    assert_eq!(full(&files).class, Class::LowSpace);
}
