//! Bad input is refused with one line of advice and exit code 2, before any work.

use super::{finish, some_flights};

/// Runs that must be refused, and a part of the error text.
#[tokio::test]
async fn bad_input_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        std::fs::write(path(name), text).unwrap();
        path(name)
    };
    let header = "year,month,day,sched_dep_time,dep_delay,carrier,flight,tailnum,origin,dest";
    let good = some_flights(directory.path(), 3).to_str().unwrap().to_owned();
    let empty = write("empty.csv", "");
    let no_rows = write("no_rows.csv", &format!("{header}\n"));
    let no_column = write("no_column.csv", "year,month,day\n2013,1,1\n");
    let no_number = write(
        "no_number.csv",
        &format!("{header}\n2013,1,1,515,2,UA,1,N1,EWR,IAH\n2013,1,1,515,soon,UA,2,N1,EWR,IAH\n"),
    );
    let no_gzip = write("no.csv.gz", "\u{1f}\u{8b} is not enough");
    let no_database = write("no_database", "this is no database, and it is longer than a header of one");
    let here = format!("sqlite://{}", path("unused.sqlite3"));

    let cases: [(&[&str], &str); 12] = [
        (&["--input", &path("missing.csv")], "missing.csv"),
        (&["--input", &empty], "it is empty"),
        (&["--input", &no_rows], "it has no rows"),
        (&["--input", &no_column], "lacks the columns sched_dep_time"),
        (&["--input", &no_number], "line 3: dep_delay \"soon\""),
        (&["--input", &no_gzip], "not a usable file"),
        (&["--database-url", "mysql://localhost/x"], "sqlite:// or postgres://"),
        (&["--database-url", "sqlite://"], "names no file"),
        (&["--database-url", "sqlite:///nowhere/at/all.sqlite3", "--input", &good], "directory that you may write to"),
        (&["--database-url", &format!("sqlite://{no_database}"), "--input", &good], "no_database"),
        (
            &["--database-url", "postgres://nobody@127.0.0.1:1/none", "--input", &good],
            "start it, or give another --database-url",
        ),
        (&["--resend", "101"], "101"),
    ];
    for (args, wanted) in cases {
        let mut all = args.to_vec();
        if !args.contains(&"--database-url") {
            all.extend(["--database-url", here.as_str()]);
        }
        let refused = finish(&all).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(wanted), "{args:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("panicked"), "{args:?}: {}", refused.stderr);
    }
    assert!(!directory.path().join("unused.sqlite3").exists(), "the demo checks the input before it creates a file");
}

/// The demo does not touch the database of another program.
#[tokio::test]
async fn eventboxes_of_another_program_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("orders.sqlite3");
    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    pool.close().await;
    for resume in [&[][..], &["--resume"]] {
        let url = format!("sqlite://{}", file.display());
        let refused = finish(&[&["--database-url", &url], resume].concat()).await;
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains("another program"), "{}", refused.stderr);
    }
}
