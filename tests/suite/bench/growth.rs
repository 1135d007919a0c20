//! The curves of growth.

use super::{bench, names};

/// A line for each figure of each further point and of the soak, and a picture for each figure.
#[tokio::test]
async fn curves_are_measured_and_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("plots");
    let args = ["--quick", "--only", "W6", "--engine", "sqlite", "--json", "--plot", plot.to_str().unwrap()];
    let lines = bench(&args).await.verified();
    assert!(names(&lines).iter().all(|name| *name == ("W6".to_owned(), None)));
    let units: Vec<&str> = lines.iter().map(|line| line["unit"].as_str().unwrap()).collect();
    let of = |what: &str| units.iter().filter(|unit| unit.ends_with(what)).count();
    assert_eq!((of("10000 pending"), of("with an open transaction"), units.len()), (5, 5, 10), "{units:?}");
    let pictures: Vec<_> = std::fs::read_dir(&plot).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(pictures.len(), 5, "{pictures:?}");
    assert!(pictures.iter().all(|picture| std::fs::read_to_string(picture).unwrap().contains("</svg>")));
}
