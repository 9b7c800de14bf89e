"""From a trained system to numbers: `scoring`, `metrics`, `attention` against planted truth,
`comparing` systems."""
