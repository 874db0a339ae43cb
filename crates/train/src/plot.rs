//! The picture of a run. SVG text is drawn by whoever shows the file: no font of this machine is needed.

use plotters::chart::SeriesLabelPosition;
use plotters::prelude::*;

use crate::{Error, Result};

const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALID: RGBColor = RGBColor(214, 39, 40);

/// Training loss by step as a line, held-out loss as points joined by a thin line; `(step, loss)` each. An SVG file.
pub fn loss_curve(train: &[(usize, f64)], valid: &[(usize, f64)]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, train, valid).map_err(|e| Error::Output { path: "loss.svg".into(), detail: e.to_string() })?;
    Ok(svg)
}

fn draw(svg: &mut String, train: &[(usize, f64)], valid: &[(usize, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let losses = || train.iter().chain(valid).map(|p| p.1).filter(|l| l.is_finite());
    let (low, high) = losses().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), l| (lo.min(l), hi.max(l)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.08).max(0.01);
    let last = train.iter().chain(valid).map(|p| p.0).max().unwrap_or(0).max(1);

    let root = SVGBackend::with_string(svg, (720, 440)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption("loss (nats a token)", ("sans-serif", 20))
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(0f64..last as f64, (low - margin)..(high + margin))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 15))
        .x_desc("step")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .draw()?;

    let points = |data: &[(usize, f64)]| -> Vec<(f64, f64)> {
        data.iter().filter(|p| p.1.is_finite()).map(|p| (p.0 as f64, p.1)).collect()
    };
    let legend = |x: i32, y: i32, colour: RGBColor| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
    chart
        .draw_series(LineSeries::new(points(train), TRAIN.stroke_width(2)))?
        .label("training")
        .legend(move |(x, y)| legend(x, y, TRAIN));
    chart
        .draw_series(LineSeries::new(points(valid), VALID.stroke_width(1)))?
        .label("held out")
        .legend(move |(x, y)| legend(x, y, VALID));
    chart.draw_series(points(valid).into_iter().map(|p| Circle::new(p, 5, VALID.filled())))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 15))
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_svg_with_both_curves() {
        let svg = loss_curve(&[(1, 4.8), (2, 4.5), (3, 4.3)], &[(0, 4.83), (3, 4.2)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("held out") && svg.contains("step"));
    }

    #[test]
    fn it_can_draw_nothing() {
        for train in [&[][..], &[(1, f64::NAN)], &[(1, 2.0)]] {
            assert!(loss_curve(train, &[]).unwrap().starts_with("<svg"));
        }
    }
}
