//! Pictures of the curves of growth.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

/// One figure over the number of pending events.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) engine: &'static str,
    pub(crate) unit: String,
    pub(crate) points: Vec<(i64, f64)>,
}

impl Curve {
    /// Returns the name of the curve's file.
    fn file_name(&self) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let words: String = self.unit.chars().map(word).collect();
        let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
        format!("growth-{}-{}.svg", self.engine, words.join("-"))
    }

    /// Draws the curve into a file of this directory. Returns the path.
    pub(crate) fn draw(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(self.file_name());
        self.draw_into(&path)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("draw {}", path.display()))?;
        Ok(path)
    }

    fn draw_into(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        #[allow(clippy::cast_precision_loss, reason = "a picture has fewer digits")]
        let points: Vec<(f64, f64)> = self.points.iter().map(|(pending, figure)| (*pending as f64, *figure)).collect();
        let least = points.first().map_or(1.0, |point| point.0);
        let most = points.last().map_or(10.0, |point| point.0).max(least * 10.0);
        let top = points.iter().map(|point| point.1).fold(0.0, f64::max) * 1.2;
        let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}: {}", self.engine, self.unit), ("sans-serif", 20))
            .margin(20)
            .x_label_area_size(45)
            .y_label_area_size(75)
            .build_cartesian_2d((least..most).log_scale(), 0.0..top.max(f64::MIN_POSITIVE))?;
        chart.configure_mesh().x_desc("events pending").y_desc(self.unit.clone()).draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, BLUE.filled())))?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let unit = "ms, one turn of the same box".to_owned();
        let curve = Curve { engine: "sqlite", unit, points: vec![(1_000, 0.5), (10_000, 0.6), (100_000, 0.7)] };
        let path = curve.draw(directory.path()).unwrap();
        assert_eq!(path.file_name().unwrap(), "growth-sqlite-ms-one-turn-of-the-same-box.svg");
        let picture = std::fs::read_to_string(path).unwrap();
        assert!(picture.contains("<svg") && picture.contains("events pending") && picture.contains("<circle"));
    }
}
