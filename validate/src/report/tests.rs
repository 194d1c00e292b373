use super::*;

/// Elements and attributes of XML or of such HTML as the page is: the texts of attributes, in order. Panics where a
/// start has no end, an attribute no quotes, or a text a bare `&`.
fn elements(markup: &str, void: &[&str]) -> Vec<(String, BTreeMap<String, String>)> {
    let mut open: Vec<String> = Vec::new();
    let mut all = Vec::new();
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "bare > in {text:?}");
        entities(text);
        rest = &rest[start + 1..];
        // No text of the page holds a `>` that is not escaped, nor does an attribute.
        let end = rest.find('>').expect("a tag that ends");
        let (tag, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        assert!(!tag.contains('<'), "{tag}");
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}> ends another element");
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
        let mut found = BTreeMap::new();
        while let Some((key, value)) = attributes.trim_start().split_once("=\"") {
            let (value, after) = value.split_once('"').expect("a quote that ends");
            entities(value);
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{key:?}");
            assert!(found.insert(key.to_owned(), value.to_owned()).is_none(), "{key} twice");
            attributes = after;
        }
        assert_eq!(attributes.trim(), "", "{tag}");
        if !closed && !void.contains(&name) {
            open.push(name.to_owned());
        }
        all.push((name.to_owned(), found));
    }
    assert_eq!(rest.trim(), "");
    assert!(open.is_empty(), "without an end: {open:?}");
    all
}

fn entities(text: &str) {
    for behind in text.split('&').skip(1) {
        let name = behind.split(';').next().unwrap_or_default();
        let known = ["amp", "lt", "gt", "quot"].contains(&name) || name.starts_with('#');
        assert!(known && behind.len() > name.len(), "bare & before {behind:?}");
    }
}

/// The elements of the page. What its style sheet holds is no markup.
fn elements_of_html(page: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let style = include_str!("html/style.css");
    assert_eq!((page.matches(style).count(), page.matches("<style").count()), (1, 1));
    elements(&page.replace(style, ""), &["meta"])
}

#[test]
fn pages_of_samples_hold_what_they_should() {
    for (name, report) in sample::all() {
        let pages = [
            ("txt", text(&report)),
            ("html", html(&report)),
            ("xml", junit(&report)),
            ("md", github(&report)),
            ("log", annotations(&report)),
            ("json", serde_json::to_string_pretty(&report).unwrap()),
        ];
        let again = [text(&report), html(&report), junit(&report), github(&report), annotations(&report)];
        for ((kind, page), again) in pages.iter().zip(&again) {
            assert_eq!(page, again, "{name}.{kind}");
            assert!(page.len() < 3 << 20, "{name}.{kind} has {} bytes", page.len());
        }
        for (kind, page) in pages.iter().filter(|(kind, _)| *kind != "json") {
            let invisible = page.lines().find(|line| line.contains(['\u{1b}', '\u{0}', '\u{202e}']));
            assert_eq!(invisible, None, "{name}.{kind}");
            // Text, and lines of code in Markdown, may show what would be markup elsewhere.
            let is_markup = |line: &&str| match *kind {
                "html" | "xml" => true,
                "md" => !line.starts_with("    "),
                _ => false,
            };
            let markup =
                page.lines().filter(is_markup).find(|line| line.contains("<b on") || line.contains("</script"));
            assert_eq!(markup, None, "{name}.{kind}");
        }
        for line in pages[0].1.lines() {
            assert!(line.chars().count() <= 100 && line.trim_end() == line, "{name}: {line:?}");
        }
        elements_of_html(&pages[1].1);
        if let Some(folder) = std::env::var_os("REPORT_PAGES") {
            for (kind, page) in &pages {
                std::fs::write(std::path::Path::new(&folder).join(format!("{name}.{kind}")), page).unwrap();
            }
        }
    }
}

#[test]
fn html_needs_nothing_beside_it_and_marks_what_is_wrong() {
    let page = html(&sample::broken());
    let elements = elements_of_html(&page);
    for (name, attributes) in &elements {
        assert!(!["script", "link", "img", "iframe", "object"].contains(&name.as_str()), "{name}");
        for key in attributes.keys() {
            assert!(!key.starts_with("on") && !["src", "href", "style"].contains(&key.as_str()), "{key} of {name}");
        }
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("begins at layer 7</text>") && page.contains("The difference begins at layer 7"));
    let is = |class: &str| {
        elements.iter().filter(|(_, attributes)| attributes.get("class").is_some_and(|of| of == class)).count()
    };
    // Every tap from the keys of layer 7 on but its values and its stream, the final norm, and the mark of the legend.
    assert_eq!(is("beyond"), 1 + 20 * 3 + 1 + 1);
    // Three texts that part, expected and found.
    assert_eq!(is("parting"), 6);
    assert_eq!(html(&sample::passed()).matches("class=\"parting\"").count(), 0);
    assert!(html(&sample::unloadable()).contains("copy it again"));
}

#[test]
fn html_of_nothing_is_a_page() {
    let report = Report::new(Identity::default(), vec![], Measured::default());
    elements_of_html(&html(&report));
    assert!(html(&report).contains("? ambiguous"));
    assert_eq!(text(&report), " ()\n\n  all          ambiguous\n".trim_start());
    elements(&junit(&report), &[]);
}

#[test]
fn junit_has_a_case_for_each_check_and_counts_that_are_right() {
    for (name, report) in sample::all() {
        let elements = elements(&junit(&report), &[]);
        let is = |wanted: &str| elements.iter().filter(|(name, _)| name == wanted).count();
        let (_, all) = &elements[0];
        for (kind, count) in [("tests", is("testcase")), ("failures", is("failure")), ("skipped", is("skipped"))] {
            assert_eq!(all[kind], count.to_string(), "{name}: {kind}");
        }
        assert_eq!(is("testsuite"), report.stages.len());
    }
    let page = junit(&sample::broken());
    assert!(page.contains(r#"<testsuite name="layers" tests="2" failures="1" errors="0" skipped="0">"#), "{page}");
    assert!(page.contains(r#"<skipped message="not run: no checkpoint was given"/>"#));
    assert!(page.contains(r#"<skipped message="doubt: chunks of 7: max abs 3.1e-4"#));
    assert!(page.contains(r#"<failure type="error" message="layer 7, present.7.key: the keys are off"#));
    assert!(page.contains(r#"<testcase classname="layers" name="56 checks that found nothing"/>"#));
}

#[test]
fn github_shows_stages_findings_and_annotations() {
    let page = github(&sample::broken());
    assert!(page.starts_with("## ❌ tiny&#45;1.5b&#45;fp32: fail\n"), "{page}");
    assert!(page.contains("| ⏭️ | anatomy | not run | | no checkpoint was given |"));
    assert!(page.contains("first layer beyond the precision: layer 7 &#40;present.7.key&#41;"));
    assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    let lines = annotations(&sample::broken());
    let first = lines.lines().next().unwrap();
    assert!(first.starts_with("::error title=logits kl::text prose: mean KL is 1.840e0"), "{first}");
    assert!(lines.contains("%0Ahint: ") && lines.contains("::warning title=consistency chunked::"));
    let hostile = Finding::new(Severity::Info, "a", "b,c:d", "100 %\n::set-env name=x::y");
    let named = Identity { name: "::stop-commands::x".to_owned(), ..Identity::default() };
    let report = Report::new(named, vec![StageReport::judged(Stage::Load, 1, vec![hostile])], Measured::default());
    assert_eq!(annotations(&report), "::notice title=load a::b,c:d: 100 %25%0A::set-env name=x::y\n");
    let is_command = |line: &str| line.trim_start().starts_with("::");
    let page = text(&report);
    assert!(!page.lines().any(is_command) && page.contains("::stop"), "{page}");
}

#[test]
fn text_says_where_it_breaks() {
    let page = text(&sample::broken());
    for line in [
        "  anatomy      not run    no checkpoint was given",
        "  layers       fail         57 checks  1 error",
        "  error    layers present-key: layer 7, present.7.key",
        "layers: the first beyond what the precision explains is layer 7 (present.7.key)",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(page.contains("expected ") && page.contains("parts at token 4"), "{page}");
}

#[test]
fn text_and_html_show_the_same_figures() {
    let report = sample::passed();
    let (page, table) = (text(&report), html(&report));
    for (what, found) in [
        ("same choice", "9/14 where the reference prefers its own by less than 0.1, 37/38 to 1, 108/113 by more"),
        ("perplexity", "14.2 over 162 tokens, reference 14.2; ln ratio 0.00200 ± 6.67e-4"),
        ("prefill of 2048", "302 tokens/s (293 to 308)"),
        ("first token", "311 ms (302 to 317)"),
        ("sampling", "214 µs"),
    ] {
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("{what} {found}")), "{what}\n{page}");
        assert!(table.contains(&format!("<td>{what}</td><td>{found}</td>")), "{what}\n{table}");
    }
}
