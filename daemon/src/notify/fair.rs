//! Which of the deliveries that are due are carried out next. Pure.
//!
//! Invariant: the account with the fewest calls under way comes first, and of its servers the one with the fewest: neither a server that does not answer nor an account
//! with many of them, or with a large backlog, holds up another.

use std::collections::HashMap;

/// Calls at once.
pub const AT_ONCE: usize = 32;
/// Of these, for one account.
pub const OF_ACCOUNT: usize = 8;
/// Of these, to one server for one account.
pub const TO_SERVER: usize = 4;

/// Whose deliveries to where share a limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// The account.
    pub account: String,
    /// Host and port.
    pub authority: String,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Whose end it tells.
    pub execution: String,
    /// Where.
    pub server: Server,
    /// Since when it is due, in microseconds.
    pub since: i64,
}

/// Calls under way.
#[derive(Default)]
struct Load {
    accounts: HashMap<String, usize>,
    servers: HashMap<Server, usize>,
}

impl Load {
    fn add(&mut self, server: &Server) {
        *self.accounts.entry(server.account.clone()).or_default() += 1;
        *self.servers.entry(server.clone()).or_default() += 1;
    }

    /// Of its account, and of these to its server.
    fn of(&self, server: &Server) -> (usize, usize) {
        let count = |found: Option<&usize>| found.copied().unwrap_or_default();
        (count(self.accounts.get(&server.account)), count(self.servers.get(server)))
    }

    fn has_room(&self, server: &Server) -> bool {
        let (account, server) = self.of(server);
        account < OF_ACCOUNT && server < TO_SERVER
    }
}

/// Those to carry out, beside what is under way.
#[must_use]
pub fn choose(due: Vec<Candidate>, under_way: &HashMap<String, Server>) -> Vec<Candidate> {
    let mut load = Load::default();
    under_way.values().for_each(|server| load.add(server));
    let mut waiting: Vec<Candidate> = due.into_iter().filter(|one| !under_way.contains_key(&one.execution)).collect();
    let mut chosen = Vec::new();
    while under_way.len() + chosen.len() < AT_ONCE {
        waiting.retain(|one| load.has_room(&one.server));
        let next = waiting.iter().enumerate().min_by_key(|(_, one)| (load.of(&one.server), one.since)).map(|(at, _)| at);
        let Some(next) = next else { break };
        let next = waiting.swap_remove(next);
        load.add(&next.server);
        chosen.push(next);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(account: &str, authority: &str, count: usize) -> Vec<Candidate> {
        let server = Server { account: account.into(), authority: authority.into() };
        let one = |n| Candidate { execution: format!("{account} {authority} {n}"), server: server.clone(), since: n };
        (0..).map(one).take(count).collect()
    }

    fn take(due: Vec<Candidate>, under_way: &mut HashMap<String, Server>) -> Vec<String> {
        let chosen = choose(due, under_way);
        under_way.extend(chosen.iter().map(|one| (one.execution.clone(), one.server.clone())));
        chosen.into_iter().map(|one| one.execution).collect()
    }

    #[test]
    fn no_server_and_no_account_has_all_calls() {
        let mut under_way = HashMap::new();
        assert_eq!(take(due("a", "s", 10), &mut under_way), ["a s 0", "a s 1", "a s 2", "a s 3"]);
        let many = || (0..9).flat_map(|server| due("a", &format!("s{server}"), 8)).collect::<Vec<_>>();
        assert_eq!(take(many(), &mut under_way).len(), OF_ACCOUNT - TO_SERVER);
        assert_eq!(take(many(), &mut under_way), [""; 0], "it has its share");
        let others = (0..6).flat_map(|account| (0..3).flat_map(move |server| due(&format!("o{account}"), &format!("s{server}"), 8)));
        let others: Vec<_> = others.collect();
        assert_eq!(take(others.clone(), &mut under_way).len(), AT_ONCE - OF_ACCOUNT);
        assert_eq!(take(others.clone(), &mut under_way), [""; 0]);
        // What is over makes room for who has the least, however late it came.
        let over: Vec<String> = under_way.keys().filter(|execution| execution.starts_with("a s")).take(1).cloned().collect();
        under_way.remove(&over[0]);
        let mut late = due("late", "s", 1);
        late[0].since = i64::MAX;
        assert_eq!(take([many(), others, late].concat(), &mut under_way), ["late s 0"]);
    }
}
