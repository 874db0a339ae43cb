//! Lines and bars as SVG, for reports. Text is drawn by whoever shows the file.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::{Error, Result};

/// Colours that stay apart, also for most who see fewer of them.
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
];

/// A named line of points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Points; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Extremes at some x: `(x, low, high)`, shown as bars of few points and as a band of many.
    pub spread: Vec<(f64, f64, f64)>,
}

impl Series {
    /// Means and extremes of several values at each x.
    pub fn with_spread(name: &str, values: impl Iterator<Item = (f64, Vec<f64>)>) -> Self {
        let (mut points, mut spread) = (Vec::new(), Vec::new());
        for (x, ys) in values.filter(|(_, ys)| !ys.is_empty()) {
            let (low, high) = ys.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &y| (l.min(y), h.max(y)));
            points.push((x, ys.iter().sum::<f64>() / ys.len() as f64));
            spread.push((x, low, high));
        }
        Series { name: name.to_string(), points, spread }
    }
}

/// Up to so many points are drawn one by one.
const FEW: usize = 24;

/// A picture of several lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: String,
    /// Beside it.
    pub y: String,
    /// Whether x is logarithmic; then only points with x > 0 are shown.
    pub log_x: bool,
    /// The lines.
    pub series: Vec<Series>,
}

impl Chart {
    /// An SVG file.
    pub fn svg(&self) -> Result<String> {
        let (xs, ys) = (self.range(|p| p.0), self.range(|p| p.1));
        let margin = ((ys.1 - ys.0) * 0.08).max(ys.1.abs() * 1e-6).max(1e-9);
        let ys = (ys.0 - margin)..(ys.1 + margin);
        let mut svg = String::new();
        let drawn = if self.log_x {
            let xs = (xs.0.max(1e-12) / 1.15)..(xs.1.max(1e-12) * 1.15);
            self.draw(&mut svg, xs.log_scale(), ys)
        } else {
            self.draw(&mut svg, xs.0..(xs.1.max(xs.0 + 1e-9)), ys)
        };
        drawn.map_err(|e| Error::Output { path: "svg".into(), detail: e.to_string() })?;
        Ok(svg)
    }

    fn shown(&self, p: &(f64, f64)) -> bool {
        p.0.is_finite() && p.1.is_finite() && (!self.log_x || p.0 > 0.0)
    }

    fn range(&self, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let points = self.series.iter().flat_map(|s| s.points.iter().copied());
        let ends = self.series.iter().flat_map(|s| s.spread.iter().flat_map(|&(x, low, high)| [(x, low), (x, high)]));
        let all = points.chain(ends).filter(|p| self.shown(p));
        let (low, high) =
            all.map(|p| of(&p)).fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        if low <= high { (low, high) } else { (1.0, 2.0) }
    }

    fn draw<X>(&self, svg: &mut String, xs: X, ys: std::ops::Range<f64>) -> Result<(), Box<dyn std::error::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let root = SVGBackend::with_string(svg, (760, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .caption(&self.title, ("sans-serif", 19))
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(xs, ys)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points: Vec<(f64, f64)> = series.points.iter().filter(|p| self.shown(p)).copied().collect();
            let fits = |&&(x, low, high): &&(f64, f64, f64)| self.shown(&(x, low)) && self.shown(&(x, high));
            let spread: Vec<(f64, f64, f64)> = series.spread.iter().filter(fits).copied().collect();
            if points.len() <= FEW {
                let bar = |&(x, low, high): &(f64, f64, f64)| PathElement::new([(x, low), (x, high)], colour.mix(0.6));
                chart.draw_series(spread.iter().map(bar))?;
            } else {
                let there = spread.iter().map(|&(x, low, _)| (x, low));
                let back = spread.iter().rev().map(|&(x, _, high)| (x, high));
                let band = Polygon::new(there.chain(back).collect::<Vec<_>>(), colour.mix(0.15).filled());
                chart.draw_series(std::iter::once(band))?;
            }
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            if points.len() <= FEW {
                chart.draw_series(points.into_iter().map(|p| Circle::new(p, 3, colour.filled())))?;
            }
        }
        let position = SeriesLabelPosition::UpperRight;
        let labels = chart.configure_series_labels();
        let mut labels = labels;
        labels.position(position).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3)).draw()?;
        root.present()?;
        Ok(())
    }
}

/// A number in few characters.
fn short(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 || (1e-2..1e5).contains(&size) {
        let text = format!("{x:.3}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        return text.to_string();
    }
    format!("{x:.0e}")
}

/// A line of [`columns`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Drawn beside it.
    pub name: String,
    /// One for each column; one that is not finite has no bar.
    pub values: Vec<f64>,
    /// Drawn in red.
    pub marked: bool,
}

/// Rows with the same columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Above each column.
    pub heads: Vec<&'static str>,
    /// Under them.
    pub rows: Vec<Row>,
}

/// Horizontal bars, a row each, in columns that have a scale of their own in each block. An SVG file.
pub fn columns(title: &str, blocks: &[Block]) -> String {
    const NAME: usize = 290;
    const WIDE: usize = 120;
    const BAR: f64 = 62.0;
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let widest = blocks.iter().map(|b| b.heads.len()).max().unwrap_or(0);
    let rows: usize = blocks.iter().map(|b| b.rows.len() + 2).sum();
    let (width, height) = (NAME + 24 + WIDE * widest, 32 + 17 * rows);
    let mut svg = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"17\">{}</text>\n",
        escape(title)
    );
    let mut top = 37;
    for Block { heads, rows } in blocks {
        for (c, head) in heads.iter().enumerate() {
            let (x, y) = (NAME + 12 + WIDE * c, top + 11);
            svg += &format!("<text x=\"{x}\" y=\"{y}\" font-weight=\"bold\">{}</text>\n", escape(head));
        }
        let most = |c: usize| {
            rows.iter().filter_map(|r| r.values.get(c)).filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(*v))
        };
        let most: Vec<f64> = (0..heads.len()).map(most).collect();
        for (i, row) in rows.iter().enumerate() {
            let y = top + 17 * (i + 1);
            let (colour, baseline) = (if row.marked { "#d62728" } else { "#1f77b4" }, y + 11);
            let name = escape(&row.name);
            svg += &format!("<text x=\"{NAME}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text>");
            for (c, (&value, &most)) in row.values.iter().zip(&most).enumerate() {
                let x = NAME + 12 + WIDE * c;
                let length = if value.is_finite() && most > 0.0 { BAR * value.max(0.0) / most } else { 0.0 };
                let text = if value.is_finite() { short(value) } else { "–".into() };
                svg += &format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"13\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{baseline}\">{text}</text>",
                    x as f64 + length + 4.0
                );
            }
            svg.push('\n');
        }
        top += 17 * (rows.len() + 2);
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log_x: bool, points: Vec<(f64, f64)>) -> Chart {
        let series = vec![Series { name: "a & b".into(), points, spread: Vec::new() }];
        Chart { title: "t".into(), x: "x".into(), y: "y".into(), log_x, series }
    }

    #[test]
    fn lines() {
        for log_x in [false, true] {
            let svg = chart(log_x, vec![(1.0, 2.0), (10.0, f64::NAN), (100.0, 1.0)]).svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert_eq!(svg.matches("<circle").count(), 2);
            for points in [vec![], vec![(1.0, 1.0)], vec![(-1.0, 1.0)], vec![(1.0, f64::NAN)]] {
                assert!(chart(log_x, points).svg().unwrap().starts_with("<svg"));
            }
        }
    }

    #[test]
    fn spread_is_bars_of_few_points_and_a_band_of_many() {
        let drawn = |n: usize| {
            let values = (0..n).map(|i| (i as f64, vec![1.0, 3.0 + i as f64, 2.0]));
            let series = vec![Series::with_spread("s", values)];
            assert_eq!((series[0].points[0].1, series[0].spread[0]), (2.0, (0.0, 1.0, 3.0)));
            Chart { title: "t".into(), x: "x".into(), y: "y".into(), log_x: false, series }.svg().unwrap()
        };
        let (few, many) = (drawn(3), drawn(40));
        assert!(!few.contains("<polygon") && many.matches("<polygon").count() == 1);
        // A bar for each of the three.
        assert_eq!(few.matches("opacity=\"0.6\"").count(), 3, "{few}");
        // Means end at 3; the axis goes to where the bars end.
        assert!(few.contains("\n5\n"), "{few}");
    }

    #[test]
    fn bars_are_escaped_and_in_proportion() {
        let row = |name: &str, values: [f64; 2], marked| Row { name: name.into(), values: values.to_vec(), marked };
        let svg = columns(
            "<t>",
            &[Block {
                heads: vec!["x", "y"],
                rows: vec![row("a", [1.0, 5.0], false), row("b", [2.0, f64::NAN], true)],
            }],
        );
        assert!(svg.contains("&lt;t&gt;") && svg.contains("width=\"31.0\""));
        assert_eq!((svg.matches("width=\"62.0\"").count(), svg.matches("#d62728").count()), (2, 2));
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn short_numbers() {
        assert_eq!([0.0, 1.5, 0.001, 1e7, -2.0].map(short), ["0", "1.5", "1e-3", "1e7", "-2"].map(str::to_string));
    }
}
