//! Bad arguments are refused with exit code 2 and advice, before any measurement.

use super::bench;

#[tokio::test]
async fn bad_arguments_are_refused_with_advice() {
    let cases: [(&[&str], &str); 11] = [
        (&["--only", "W9"], "W3b"),
        (&["--engine", "mysql"], "sqlite"),
        (&["--rounds", "2"], "3..=99"),
        (&["--pending", "10"], "1000..=10000000"),
        (&["--soak-minutes", "0"], "1..="),
        (&["--fast"], "--fast"),
        (&["--smoke", "--quick"], "cannot be used with"),
        (&["--costs", "--database-url", "postgres://me@db/postgres"], "cannot be used with"),
        (&["--database-url", "sqlite://here.sqlite3"], "must begin with postgres://"),
        (&["--database-url", "postgres://host:notaport/x"], "write postgres://USER@HOST/DATABASE"),
        (&["--database-url", "postgres://nobody@127.0.0.1:1/none"], "give another --database-url"),
    ];
    for (args, wanted) in cases {
        let refused = bench(args).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(wanted), "{args:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("panicked"), "{args:?}: {}", refused.stderr);
    }
}
