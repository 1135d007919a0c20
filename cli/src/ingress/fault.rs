//! Parses faults from the command line: `what[=value][,rate=R][,type=T][,times=N]`.

use eventbox::ingress::{Fault, When};
use eventbox::proto::chipingress::pb::PublishErrorCode;
use tonic::Code;

/// Reason of an injected publish error.
const ASKED_FOR: &str = "injected by --fault";

/// A fault and its condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FaultRule(pub(crate) Fault, pub(crate) When);

impl std::str::FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let what = parts.next().unwrap_or_default();
        let fault = parse_fault(what)?;
        let mut when = When::ALWAYS;
        for part in parts {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} has no value"))?;
            match name {
                "type" => when.event_type = Some(value.to_owned()),
                "rate" => when.rate = parse_rate(value)?,
                "times" => when.times = Some(value.parse().map_err(|_| format!("{value:?} is not a number of times"))?),
                _ => return Err(format!("{name:?} is not one of rate, type and times")),
            }
        }
        Ok(FaultRule(fault, when))
    }
}

fn parse_fault(what: &str) -> Result<Fault, String> {
    let (name, value) = what.split_once('=').map_or((what, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("code", Some(value)) => Ok(Fault::Code(parse_code(value)?)),
        ("publish", Some(value)) => {
            let name = format!("PUBLISH_ERROR_CODE_{value}");
            let code = PublishErrorCode::from_str_name(&name).ok_or_else(|| {
                format!(
                    "{value:?} is not one of UNKNOWN, VALIDATION_FAILED, SCHEMA_MISSING, ENCODE_ERROR, \
                     DOMAIN_MISCONFIGURATION"
                )
            })?;
            Ok(Fault::Publish(code, ASKED_FOR.to_owned()))
        }
        ("results", Some(value)) => {
            Ok(Fault::Results(value.parse().map_err(|_| format!("{value:?} is not a number of results"))?))
        }
        ("hang", None) => Ok(Fault::Hang),
        ("drop", None) => Ok(Fault::Drop),
        _ => Err(format!("{what:?} is not one of code=CODE, publish=CODE, results=N, hang and drop")),
    }
}

/// Parses a gRPC code: its name, such as `UNAVAILABLE`, or its number.
fn parse_code(text: &str) -> Result<Code, String> {
    let named = |code: &Code| format!("{code:?}").eq_ignore_ascii_case(&text.replace('_', ""));
    let found = match text.parse() {
        Ok(number) => Some(Code::from_i32(number)).filter(|code| i32::from(*code) == number),
        Err(_) => (0..=16).map(Code::from_i32).find(named),
    };
    let found = found.filter(|code| *code != Code::Ok);
    found.ok_or_else(|| format!("{text:?} is not the code of a gRPC error, such as UNAVAILABLE"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| format!("{text:?} is not a rate from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let read = |text: &str| text.parse::<FaultRule>().map(|FaultRule(fault, when)| (fault, when));
        let rate = When::ALWAYS.rate(0.1);
        assert_eq!(read("code=UNAVAILABLE,rate=0.1"), Ok((Fault::Code(Code::Unavailable), rate)));
        assert_eq!(read("code=DEADLINE_EXCEEDED"), Ok((Fault::Code(Code::DeadlineExceeded), When::ALWAYS)));
        assert_eq!(read("code=8"), Ok((Fault::Code(Code::ResourceExhausted), When::ALWAYS)));
        assert_eq!(read("drop,type=order.paid,times=3"), Ok((Fault::Drop, When::of_type("order.paid").times(3))));
        assert_eq!(read("results=0"), Ok((Fault::Results(0), When::ALWAYS)));
        let publish = Fault::Publish(PublishErrorCode::SchemaMissing, ASKED_FOR.to_owned());
        assert_eq!(read("publish=SCHEMA_MISSING"), Ok((publish, When::ALWAYS)));
        for wrong in ["", "code", "code=OK", "code=17", "code=NO", "hang=1", "drop,rate=2", "drop,often=1", "drop,rate"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
