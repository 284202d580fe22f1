//! The decision about a plan: every step and the whole, all reasons at once, with ids that anybody can compute again.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    Blast, Class, Code, Decision, Decisions, Digest, Effectiveness, Finding, Ruling, Thing, Used, Verb, WhoCanAct,
};
use serde::Serialize;

use crate::approvals::MOST_MINUTES;
use crate::ask::{
    Ask, Clock, Evidence, Object, PlanAsk, PlanContext, PlanPhase, RepairFacts, Risk, SessionFacts, SiteRules, StepAsk,
    StepContext, Target,
};
use crate::engine::{Answered, DEFAULT_DENY, Engine};
use crate::needs::{Need, people, together};
use crate::request::{Outcome, Request, StepFacts, Unknown};
use crate::touch::{Known, Touch, hazards, touches};
use crate::watch::Asks;
use crate::{blast, guard};

/// Plans of more steps keep the score of each and not what it is made of.
const MAX_VECTORS: usize = 1_000;

/// What a decision id is computed from.
#[derive(Serialize)]
struct DecisionInput<'a> {
    bundle: Digest,
    phase: &'a str,
    plan: Digest,
    assessment: Digest,
    step: &'a str,
    asked: &'a [Digest],
    ruling: Ruling,
    rules: &'a [String],
    needs: &'a [String],
    errors: &'a [String],
}

/// A step with all that is known of it before the rules are asked.
struct Surveyed {
    touched: Vec<Known>,
    blast: Blast,
    risk: Risk,
}

impl Surveyed {
    fn uris(&self) -> impl Iterator<Item = &str> {
        self.touched.iter().map(|known| known.touch.uri.as_str())
    }
}

/// A count as the rules read it.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Answers to the questions about one step, or about the whole.
#[derive(Default)]
struct Gathered {
    asked: Vec<Digest>,
    ruling: Option<Ruling>,
    permits: BTreeSet<String>,
    forbids: BTreeSet<String>,
    needs: Vec<Need>,
    errors: Vec<String>,
}

/// Decides. `phase` is `gate` when a plan comes in, `run` when people have spoken.
pub fn decide(engine: &Engine, request: &Request<'_>, phase: &str) -> Outcome {
    let surveyed: Vec<Surveyed> = request.steps.iter().map(|step| survey(step, request)).collect();
    let mut whole = Blast::default();
    surveyed.iter().for_each(|step| whole.add(&step.blast));
    let session = session_after(request, &whole);
    let changed: Vec<&str> = surveyed.iter().flat_map(Surveyed::uris).collect();
    let mut decider = Decider { engine, request, phase, session, refusals: Vec::new(), asks: Asks::default() };
    let looks = decider.about_unknown();
    let plan = decider.about_plan(&whole, &surveyed, looks);
    let mut steps = Vec::with_capacity(request.steps.len());
    for (step, surveyed) in request.steps.iter().zip(&surveyed) {
        decider.refusals.extend(guard::refused(step, request.site, &surveyed.touched, &changed));
        steps.push(decider.about_step(step, surveyed));
    }
    let all = steps.iter().chain([&plan]).flat_map(|decision| &decision.needs);
    let needs = together(all.filter_map(|need| need.parse().ok()));
    let teams = needs.iter().filter_map(|need| if let Need::Role(team) = need { Some(team.clone()) } else { None });
    let inputs = serde_json::json!({
        "principal": request.principal, "session": request.session, "now": request.now,
        "approvals": request.people.approvals, "teams": request.people.teams, "drilled": request.drilled,
        "plan": request.plan, "assessment": request.assessment, "environment": request.site.environment,
    });
    let teams: Vec<String> = teams.collect();
    let (phase, bundle, ceilings) = (phase.to_owned(), engine.digest(), Vec::new());
    let decisions = Decisions { phase, bundle, inputs, blast: whole, plan, steps, ceilings };
    let people = people(&needs).max(u64::from(!teams.is_empty()));
    let used = used(request, &surveyed);
    let minutes = minutes(engine, &decisions);
    let Decider { refusals, asks, .. } = decider;
    Outcome { decisions, refusals, people, teams, minutes, used, asks }
}

/// How long approvals are good: of the rules that hold the plan the strictest says.
fn minutes(engine: &Engine, decisions: &Decisions) -> u64 {
    let held = decisions.steps.iter().chain([&decisions.plan]).filter(|decision| decision.ruling == Ruling::Hold);
    let said = held.flat_map(|decision| &decision.rules).filter_map(|rule| engine.rule(rule)?.approval_minutes);
    said.min().unwrap_or(MOST_MINUTES)
}

/// What the plan uses up of the limits, summed by what is done to what.
fn used(request: &Request<'_>, surveyed: &[Surveyed]) -> Vec<Used> {
    let mut sums: BTreeMap<(Verb, Thing, Class), (u64, u64)> = BTreeMap::new();
    for (step, surveyed) in request.steps.iter().zip(surveyed) {
        for known in surveyed.touched.iter().filter(|known| known.touch.verb != Verb::Inspect) {
            if request.own_resources.contains(&known.touch.uri) {
                continue;
            }
            let sum = sums.entry((known.verb(), known.thing(), step.class())).or_default();
            sum.0 = sum.0.saturating_add(1);
            sum.1 = sum.1.saturating_add(known.touch.rows.updated.saturating_add(known.touch.rows.deleted));
        }
    }
    sums.into_iter().map(|((verb, thing, class), (count, rows))| Used { verb, thing, class, count, rows }).collect()
}

fn survey(step: &StepFacts<'_>, request: &Request<'_>) -> Surveyed {
    let (environment, tier) = (&request.site.environment, request.site.tier);
    let known = |touch: Touch| Known { described: request.site.inventory.describe(&touch.uri, environment), touch };
    let mut touched: Vec<Known> = touches(step).into_iter().map(known).collect();
    // What lies beneath a declared folder is touched as well: each file where it is deleted, what the inventory speaks of in any case.
    let verb = step.act.filter(|act| act.on == Thing::File).map_or(Verb::Update, |act| act.verb);
    let beneath = step.assessed.reaches.iter().map(|uri| known(Touch::plain(verb, Thing::File, uri.clone())));
    touched.extend(beneath.filter(|known| verb.destroys() || known.described.known));
    // A secret that is read leaves its place.
    let reads = step.reads.iter().map(|read| known(Touch::plain(Verb::Inspect, Thing::Secret, read.to_string())));
    let names = step.names.iter().map(|name| known(Touch::plain(Verb::Inspect, Thing::Secret, name.clone())));
    touched.extend(reads.chain(names).filter(|known| known.described.thing == Some(Thing::Secret)));
    let mut radius = Blast::default();
    for known in &touched {
        blast::reach(&mut radius, known, step.class(), environment, tier);
    }
    blast::widen(&mut radius, step.assessed.share, hazards(step));
    let risk = blast::risk(step.class(), &radius, tier);
    Surveyed { touched, blast: radius, risk }
}

/// What the session will have done after this plan.
fn session_after(request: &Request<'_>, whole: &Blast) -> SessionFacts {
    let before = request.session;
    let restarts = request.steps.iter().filter(|step| step.act.is_some_and(|act| act.verb == Verb::Restart));
    SessionFacts {
        mode: before.mode,
        writes: before.writes.saturating_add(number(whole.touched())),
        deletes: before.deletes.saturating_add(number(whole.deleted())),
        restarts: before.restarts.saturating_add(number(restarts.count() as u64)),
        rows: before.rows.saturating_add(number(whole.rows.updated.saturating_add(whole.rows.deleted))),
    }
}

struct Decider<'a> {
    engine: &'a Engine,
    request: &'a Request<'a>,
    phase: &'a str,
    session: SessionFacts,
    refusals: Vec<Finding>,
    asks: Asks,
}

impl Decider<'_> {
    fn about_step(&mut self, step: &StepFacts<'_>, surveyed: &Surveyed) -> Decision {
        let mut gathered = Gathered::default();
        let mut denied: BTreeMap<String, (String, u64)> = BTreeMap::new();
        let mut missing: BTreeMap<Need, BTreeSet<String>> = BTreeMap::new();
        let mut seen: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let context = self.step_context(step, surveyed);
        for known in &surveyed.touched {
            let ask = Ask::Step(self.step_ask(step, known, &context));
            let digest = ask.digest();
            if let Some(rules) = seen.get(&digest) {
                count_more(&mut denied, rules);
                continue;
            }
            let answered = self.engine.answer(&ask);
            gathered.take(digest, &answered);
            if answered.ruling == Ruling::Deny {
                let what = format!("{} {}", known.touch.verb.as_str().replace('_', " "), known.touch.uri);
                for rule in &answered.rules {
                    denied.entry(rule.clone()).or_insert_with(|| (what.clone(), 0)).1 += 1;
                }
            }
            for need in answered.needs.iter().filter(|need| !need.is_by_people()) {
                missing.entry(need.clone()).or_default().extend(answered.rules.iter().cloned());
            }
            self.asks.of_step(step.ix, digest, ask);
            seen.insert(digest, if answered.ruling == Ruling::Deny { answered.rules } else { Vec::new() });
        }
        let place = format!("/steps/{}", step.ix);
        for (rule, (what, count)) in &denied {
            let more = if *count > 1 { format!(", and {} more", count - 1) } else { String::new() };
            let detail = format!("{what}{more}{}", self.circumstances(step, rule));
            self.refusals.push(self.refusal(rule, &detail, &place).of_step(&step.assessed.id));
        }
        for (need, rules) in &missing {
            self.refusals.push(no_evidence(need, rules, &place).of_step(&step.assessed.id));
        }
        self.refusals.extend(gathered.errors.iter().map(|error| failed(error, &place).of_step(&step.assessed.id)));
        let vector = (self.request.steps.len() <= MAX_VECTORS).then(|| surveyed.blast.clone());
        Decision { blast: vector, ..self.decision(&step.assessed.id, step.class(), surveyed.blast.score, gathered) }
    }

    fn about_plan(&mut self, whole: &Blast, surveyed: &[Surveyed], looks: Gathered) -> Decision {
        let steps = &self.request.steps;
        let irreversible = steps.iter().filter(|step| step.class() == Class::Irreversible).count();
        let worst = surveyed.iter().map(|step| step.risk).max().unwrap_or(Risk::Low);
        let class = steps.iter().map(StepFacts::class).max().unwrap_or(Class::TriviallyReversible);
        let ask = Ask::Plan(PlanAsk {
            principal: self.request.principal.clone(),
            phase: PlanPhase::Admit,
            environment: self.request.site.environment.clone(),
            tier: self.request.site.tier,
            context: PlanContext {
                steps: number(steps.len() as u64),
                writes: number(whole.touched()),
                deletes: number(whole.deleted()),
                irreversible: number(irreversible as u64),
                score: number(whole.score),
                risk: worst,
                hazards: whole.hazards.clone(),
                clock: Clock::at(self.request.now),
                calendar: self.request.site.inventory.calendar(&self.request.site.environment, self.request.now),
                site: self.site_rules(),
                undeclared: 0,
                checks_failed: 0,
                evidence: self.word_of_people(),
            },
        });
        let answered = self.engine.answer(&ask);
        let mut gathered = looks;
        gathered.take(ask.digest(), &answered);
        self.asks.plan = Some(ask.clone());
        if answered.ruling == Ruling::Deny {
            let detail = format!("the plan as a whole, {} steps", steps.len());
            let refusals: Vec<Finding> = answered.rules.iter().map(|rule| self.refusal(rule, &detail, "")).collect();
            self.refusals.extend(refusals);
            self.refusals.extend(answered.errors.iter().map(|error| failed(error, "")));
        }
        self.decision("", class, whole.score, gathered)
    }

    /// Commands that run to look and may do anything: judged like steps that cannot be undone.
    fn about_unknown(&mut self) -> Gathered {
        let mut gathered = Gathered::default();
        for unknown in &self.request.unknown {
            let ask = Ask::Step(self.look_ask(unknown));
            let answered = self.engine.answer(&ask);
            gathered.take(ask.digest(), &answered);
            if answered.ruling != Ruling::Deny {
                continue;
            }
            let detail = unknown.argv.join(" ");
            let refusals: Vec<Finding> =
                answered.rules.iter().map(|rule| self.refusal(rule, &detail, &unknown.pointer)).collect();
            self.refusals.extend(refusals);
            self.refusals.extend(answered.errors.iter().map(|error| failed(error, &unknown.pointer)));
        }
        gathered
    }

    fn look_ask(&self, unknown: &Unknown) -> StepAsk {
        let verb = Verb::Inspect;
        let program = unknown.argv.first().map_or("", String::as_str);
        let reads = self.engine.reads_names(verb, Thing::Program);
        let site = self.request.site;
        StepAsk {
            principal: self.request.principal.clone(),
            verb,
            resource: Object {
                thing: Thing::Program,
                name: if reads { format!("program:{program}") } else { String::new() },
                environment: site.environment.clone(),
                tier: site.tier,
                known: false,
                sensitive: false,
                protected: false,
                shared: false,
                boundary: crate::ask::Boundary::Undeclared,
            },
            context: self.context(
                Class::Irreversible,
                Risk::High,
                schemas::Confidence::None,
                if reads { unknown.argv.join(" ") } else { String::new() },
            ),
        }
    }

    /// The question about one touch; what it has in common with the others of its step is made once.
    fn step_ask(&self, step: &StepFacts<'_>, known: &Known, context: &StepContext) -> StepAsk {
        let (verb, thing) = (known.verb(), known.thing());
        let reads = self.engine.reads_names(verb, thing);
        let site = self.request.site;
        let in_library = step.assessed.way_back.entry.is_some();
        let mut context = context.clone();
        if reads {
            context.command.clone_from(&step.command);
        }
        StepAsk {
            principal: self.request.principal.clone(),
            verb,
            resource: Object {
                thing,
                name: if reads { known.touch.uri.clone() } else { String::new() },
                environment: site.environment.clone(),
                tier: site.tier,
                known: known.described.known || (thing == Thing::Program && in_library),
                sensitive: blast::is_sensitive(&known.described, site.tier),
                protected: known.described.protected,
                shared: known.described.shared,
                boundary: known.described.boundary(verb),
            },
            context,
        }
    }

    /// What every question about a step has in common. Without the words of a command: not every rule reads them.
    fn step_context(&self, step: &StepFacts<'_>, surveyed: &Surveyed) -> StepContext {
        let rows = surveyed.blast.rows;
        StepContext {
            score: number(surveyed.blast.score),
            target: Target {
                wildcard: step.assessed.by_wildcard,
                count: number(surveyed.touched.len() as u64),
                share: number(step.assessed.share.map_or(0, schemas::Share::percent)),
                rows: number(rows.updated.saturating_add(rows.deleted)),
            },
            hazards: surveyed.blast.hazards.clone(),
            evidence: self.evidence(step, surveyed),
            ..self.context(step.class(), surveyed.risk, step.assessed.confidence, String::new())
        }
    }

    fn context(&self, class: Class, risk: Risk, sure: schemas::Confidence, command: String) -> StepContext {
        let site = self.request.site;
        StepContext {
            class,
            risk,
            sure,
            score: 0,
            command,
            target: Target::default(),
            hazards: BTreeSet::new(),
            session: self.session,
            clock: Clock::at(self.request.now),
            calendar: site.inventory.calendar(&site.environment, self.request.now),
            site: self.site_rules(),
            repair: RepairFacts::default(),
            evidence: self.word_of_people(),
        }
    }

    /// What the host supplies by itself.
    fn evidence(&self, step: &StepFacts<'_>, surveyed: &Surveyed) -> Evidence {
        let assessed = step.assessed;
        let looked = assessed.confidence != schemas::Confidence::None;
        let comes_back = assessed.way_back.effectiveness != Effectiveness::None;
        let uris: Vec<&str> = surveyed.uris().collect();
        Evidence {
            legal_hold_clear: self.request.site.inventory.legal_hold_clear(&uris, self.request.now),
            snapshot: comes_back && step.class() <= Class::ReversibleWithBackup,
            dry_run: looked,
            verification: looked || step.has_checks || !step.writes.is_empty() || assessed.way_back.entry.is_some(),
            compensation: comes_back,
            drill: self.request.drilled.contains(&step.way),
            ..self.word_of_people()
        }
    }

    /// What people said so far, and nothing else.
    fn word_of_people(&self) -> Evidence {
        Evidence {
            approvals: number(self.request.people.approvals),
            teams: self.request.people.teams.clone(),
            ..Evidence::default()
        }
    }

    fn site_rules(&self) -> SiteRules {
        SiteRules {
            allows_irreversible: self.request.site.allow_irreversible,
            max_delete_share: number(self.request.site.max_delete_share),
        }
    }

    /// What makes a refusal plain: the pattern, the share and its limit, the calendar.
    fn circumstances(&self, step: &StepFacts<'_>, rule: &str) -> String {
        let mut out = String::new();
        if step.assessed.by_wildcard {
            out.push_str(", by wildcard");
        }
        let site = self.request.site;
        if let Some(share) = step.assessed.share.filter(|share| share.part > 0) {
            let allowed = site.max_delete_share;
            out.push_str(&format!(
                ", {} of {} ({} %; max_delete_share is {allowed} %)",
                share.part,
                share.whole,
                share.percent()
            ));
        }
        let code = self.engine.rule(rule).map(|rule| rule.code);
        if code == Some(Code::POLICY_FREEZE) {
            out.push_str(&site.inventory.freezes_at(&site.environment, self.request.now));
        }
        out
    }

    fn refusal(&self, rule: &str, found: &str, place: &str) -> Finding {
        let known = self.engine.rule(rule);
        let (code, why, hint) = known.map_or_else(
            || {
                let duties: Vec<&str> = self.request.principal.duties.iter().map(String::as_str).collect();
                let why = format!("no rule permits it to an agent with the duties [{}]", duties.join(", "));
                (Code::POLICY_DENIED, why, "use an agent whose duty it is, or ask the owners of the policy".to_owned())
            },
            |rule| (rule.code, rule.why.clone(), rule.hint.clone()),
        );
        let hint = if hint.is_empty() { format!("backout policy show {rule}") } else { hint };
        Finding::error(code, place, format!("{found}: {why}"), hint).for_whom(WhoCanAct::Forbidden).by_rule(rule)
    }

    fn decision(&self, step: &str, class: Class, score: u64, gathered: Gathered) -> Decision {
        let ruling = gathered.ruling.unwrap_or(Ruling::Deny);
        let rules = if ruling == Ruling::Allow { gathered.permits } else { gathered.forbids };
        let rules: Vec<String> = rules.into_iter().collect();
        let needs = together(gathered.needs);
        let people = people(&needs);
        let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
        let input = DecisionInput {
            bundle: self.engine.digest(),
            phase: self.phase,
            plan: self.request.plan,
            assessment: self.request.assessment,
            step,
            asked: &gathered.asked,
            ruling,
            rules: &rules,
            needs: &needs,
            errors: &gathered.errors,
        };
        let id = Digest::of(&serde_json::to_vec(&input).unwrap_or_default());
        let (step, asked) = (step.to_owned(), gathered.asked);
        Decision { id, step, class, ruling, rules, needs, people, score, blast: None, asked }
    }
}

impl Gathered {
    fn take(&mut self, asked: Digest, answered: &Answered) {
        self.asked.push(asked);
        self.ruling = Some(self.ruling.map_or(answered.ruling, |ruling| ruling.max(answered.ruling)));
        let rules = if answered.ruling == Ruling::Allow { &mut self.permits } else { &mut self.forbids };
        rules.extend(answered.rules.iter().cloned());
        self.needs.extend(answered.needs.iter().cloned());
        self.errors.extend(answered.errors.iter().cloned());
    }
}

fn count_more(denied: &mut BTreeMap<String, (String, u64)>, rules: &[String]) {
    for rule in rules {
        if let Some((_, count)) = denied.get_mut(rule) {
            *count += 1;
        }
    }
}

fn no_evidence(need: &Need, rules: &BTreeSet<String>, place: &str) -> Finding {
    let who = match need {
        Need::LegalHoldClear | Need::Drill => WhoCanAct::NeedsApproval,
        _ => WhoCanAct::Retryable,
    };
    let mut finding =
        Finding::error(Code::POLICY_EVIDENCE, place, format!("{need} is needed and is not there"), need.supplier())
            .for_whom(who);
    for rule in rules.iter().filter(|rule| *rule != DEFAULT_DENY) {
        finding = finding.by_rule(rule);
    }
    finding
}

fn failed(error: &str, place: &str) -> Finding {
    Finding::error(Code::POLICY_ERROR, place, error, "backout policy check").for_whom(WhoCanAct::Forbidden)
}
