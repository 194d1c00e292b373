//! The date that a template asks for, by the directives of C's `strftime`.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the day of 1970-01-01 on.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// A moment in UTC. transformers takes the machine's own time zone; that would make a prompt depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Since 1970-01-01 00:00 UTC.
    seconds: u64,
}

impl Clock {
    pub fn now() -> Self {
        Self::at(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// `seconds` since 1970-01-01 00:00 UTC.
    pub fn at(seconds: u64) -> Self {
        // The last second of the year 9999, so that nothing below can overflow.
        Self { seconds: seconds.min(253_402_300_799) }
    }

    /// `None` for a directive that is not known here.
    pub(super) fn format(self, directives: &str) -> Option<String> {
        let days = self.seconds / 86_400;
        let (year, month, day, day_of_year) = civil(days);
        let (hour, minute, second) = (self.seconds / 3600 % 24, self.seconds / 60 % 60, self.seconds % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let weekday = (days % 7) as usize;
        let month_name = MONTHS.get(month as usize - 1)?;
        let mut out = String::new();
        let mut rest = directives.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = rest.next()?;
            // glibc's flag that leaves the zero out.
            let bare = directive == '-';
            if bare {
                directive = rest.next()?;
            }
            let mut number = |value: u64, width: usize| {
                let width = if bare { 0 } else { width };
                write!(out, "{value:0width$}").ok()
            };
            match directive {
                'Y' => number(year, 4)?,
                'y' => number(year % 100, 2)?,
                'm' => number(month, 2)?,
                'd' => number(day, 2)?,
                'H' => number(hour, 2)?,
                'I' => number(hour12, 2)?,
                'M' => number(minute, 2)?,
                'S' => number(second, 2)?,
                'j' => number(day_of_year, 3)?,
                'u' => number((weekday as u64 + 3) % 7 + 1, 1)?,
                'w' => number((weekday as u64 + 4) % 7, 1)?,
                's' => number(self.seconds, 1)?,
                'e' if bare => number(day, 0)?,
                _ if bare => return None,
                'e' => write!(out, "{day:2}").ok()?,
                'B' => out.push_str(month_name),
                'b' | 'h' => out.push_str(month_name.get(..3)?),
                'A' => out.push_str(WEEKDAYS.get(weekday)?),
                'a' => out.push_str(WEEKDAYS.get(weekday)?.get(..3)?),
                'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                'F' => write!(out, "{year:04}-{month:02}-{day:02}").ok()?,
                'T' | 'X' => write!(out, "{hour:02}:{minute:02}:{second:02}").ok()?,
                'R' => write!(out, "{hour:02}:{minute:02}").ok()?,
                'D' | 'x' => write!(out, "{month:02}/{day:02}/{:02}", year % 100).ok()?,
                'n' => out.push('\n'),
                't' => out.push('\t'),
                '%' => out.push('%'),
                // Of a moment without a zone, as in Python.
                'Z' | 'z' => {}
                _ => return None,
            }
        }
        Some(out)
    }
}

/// Year, month, day, and the day of the year, of a day since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970 + days / 146_097 * 400, days % 146_097);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = day + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = |seconds: u64| Clock::at(seconds).format("%Y-%m-%d %H:%M:%S %a %j").unwrap();
        assert_eq!(shown(0), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00 Tue 060");
        assert_eq!(shown(1_772_874_302), "2026-03-07 09:05:02 Sat 066");
        assert_eq!(shown(4_107_542_399), "2100-02-28 23:59:59 Sun 059");
        assert_eq!(shown(4_107_542_400), "2100-03-01 00:00:00 Mon 060");
        assert_eq!(shown(u64::MAX), "9999-12-31 23:59:59 Fri 365");
    }

    #[test]
    fn directives_are_those_of_strftime() {
        let clock = Clock::at(1_772_874_302);
        let shown = |directives: &str| clock.format(directives);
        assert_eq!(shown("%d %b %Y|%-d %B %y|%e|%I:%M %p|%A").unwrap(), "07 Mar 2026|7 March 26| 7|09:05 AM|Saturday");
        assert_eq!(shown("%F %T %R %D %u %w %% 世%%").unwrap(), "2026-03-07 09:05:02 09:05 03/07/26 6 6 % 世%");
        assert_eq!(shown("%Q"), None);
        assert_eq!(shown("%"), None);
    }
}
