//! Mailed links, and the mails that bring them.

use super::*;

impl World {
    /// The token in the newest mail's link, once there are so many mails.
    async fn mailed(&self, count: usize) -> String {
        until(|| self.outbox.messages.lock().len() >= count).await;
        let messages = self.outbox.messages.lock();
        let link = messages[count - 1].link.as_ref().unwrap();
        link.split_once("?token=").unwrap().1.to_owned()
    }

    async fn use_link(&self, purpose: Purpose, token: &str, by: u128) -> Result<UserId, Refusal> {
        let (identity, origin) = (&self.identity, self.system.system_origin());
        let link = identity.open_link(purpose, token, by).await?;
        let password = match purpose {
            Purpose::ResetPassword => {
                Some(identity.hash_password("another horse".to_owned()).await?)
            }
            _ => None,
        };
        identity.use_link(&link, password, origin).await.map(|()| link.issued.user)
    }
}

#[tokio::test]
async fn a_mailed_link_verifies_once_and_lets_in_who_had_to_wait_for_it() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let origin = || world.system.system_origin();
    let address = world.identity.user_address(user).unwrap().unwrap();
    let users = world.system.directory::<User>();
    users.ask(&address, user::AwaitVerification {}, origin()).await.unwrap();
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "invalid_credentials");
    let identity = &world.identity;
    assert!(identity.send_link(Purpose::VerifyEmail, user, 1, origin()).await.unwrap());
    assert!(identity.send_link(Purpose::VerifyEmail, user, 1, origin()).await.unwrap());
    let token = world.mailed(1).await;
    assert_eq!(token, *world.system.port::<LinkKey>().token(Purpose::VerifyEmail, 1));
    let wrong = world.use_link(Purpose::ResetPassword, &token, 5).await;
    assert_eq!(code(wrong), "not_found");
    let world = world.restarted(POLICY).await;
    assert_eq!(world.use_link(Purpose::VerifyEmail, &token, 5).await, Ok(user));
    assert_eq!(world.use_link(Purpose::VerifyEmail, &token, 5).await, Ok(user), "a repetition");
    let other = world.use_link(Purpose::VerifyEmail, &token, 6).await.unwrap_err();
    assert_eq!((other.class, other.code.as_str()), (Class::Gone, "link_used"));
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "accepted");
    let (identity, origin) = (&world.identity, world.system.system_origin());
    let again = identity.send_link(Purpose::VerifyEmail, user, 2, origin).await;
    assert_eq!(again, Ok(false), "who is verified gets no second mail");
}

#[tokio::test]
async fn a_lost_password_is_replaced_by_the_latest_link_or_an_older_one_but_once() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let tokens = world.login().await;
    let email = EmailAddress::new(EMAIL).unwrap();
    let stranger = EmailAddress::new("nobody@example.test").unwrap();
    let (identity, origin) = (&world.identity, || world.system.system_origin());
    let send = async |to, id| identity.send_link_to(Purpose::ResetPassword, to, id, origin()).await;
    assert_eq!(send(&stranger, 1).await, Ok(false));
    assert_eq!(send(&email, 2).await, Ok(true));
    let first = world.mailed(1).await;
    assert_eq!(send(&email, 3).await, Ok(true));
    let second = world.mailed(2).await;
    assert_eq!(world.use_link(Purpose::ResetPassword, &first, 9).await, Ok(user));
    assert!(!world.is_good(&tokens).await);
    assert_eq!(code(world.refresh(&tokens.refresh_token).await), "invalid_token");
    assert_eq!(code(world.try_login(EMAIL, PASSWORD).await), "invalid_credentials");
    assert_eq!(code(world.try_login(EMAIL, "another horse").await), "accepted");
    let late = world.use_link(Purpose::ResetPassword, &second, 10).await.unwrap_err();
    assert_eq!((late.class, late.code.as_str()), (Class::Gone, "link_used"));
    let account = world.identity.user(user, user.direct_tenant()).await.unwrap();
    assert!(account.email_verified, "the mail was read");
}

#[tokio::test]
async fn a_link_expires_and_an_erased_account_has_none() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let origin = || world.system.system_origin();
    world.identity.send_link(Purpose::ResetPassword, user, 1, origin()).await.unwrap();
    let token = world.mailed(1).await;
    world.clock.advance_ms(LINK_MS);
    let late = world.use_link(Purpose::ResetPassword, &token, 1).await;
    assert_eq!(code(late), "link_expired");
    world.identity.send_link(Purpose::ResetPassword, user, 2, origin()).await.unwrap();
    let token = world.mailed(2).await;
    let key = KeyId { class: USER_KEY_CLASS, id: user.0 };
    world.system.journal().keys().erase(key).unwrap();
    let erased = world.use_link(Purpose::ResetPassword, &token, 1).await.unwrap_err();
    assert_eq!(erased.class, Class::Gone);
    let sent = world.identity.send_link(Purpose::ResetPassword, user, 3, origin()).await;
    assert_eq!(sent, Ok(false));
}

#[tokio::test]
async fn a_mail_that_is_not_taken_goes_out_later_and_after_a_restart() {
    let world = world().await;
    let user = world.sign_up(EMAIL).await;
    let origin = || world.system.system_origin();
    world.outbox.shut.store(true, Ordering::SeqCst);
    world.identity.send_link(Purpose::VerifyEmail, user, 1, origin()).await.unwrap();
    let office = world.system.port::<PostOffice>();
    until(|| office.figures().failed == 1).await;
    let figures = office.figures();
    assert_eq!((figures.waiting, figures.failing.unwrap().1.as_str()), (1, "it is shut"));
    let world = world.restarted(POLICY).await;
    world.system.recover().unwrap();
    let office = world.system.port::<PostOffice>();
    until(|| office.figures().waiting == 1).await;
    world.clock.advance_ms(BACKOFF.first_ms);
    world.system.fire_reminders();
    let token = world.mailed(1).await;
    assert_eq!(world.use_link(Purpose::VerifyEmail, &token, 1).await, Ok(user));
    until(|| office.figures().sent == 1).await;
    assert_eq!((office.figures().waiting, office.figures().failing), (0, None));
}
