/* The loops over columns of gptq.py and comq.py, where most of their time goes. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 32             /* rows of GPTQ side by side: two or four vectors */
#define MARGIN (1.0 - 1e-3) /* descent leaves a code only for one this much nearer */
#define LEAST 1e-3           /* and a pair for one that gains this share of a step's own cost */

enum { KEPT, WHOLE, FREE }; /* what may become of the zero of a group */

#define REAL float
#define RINT rintf
#define LEVELS levels_f32
#define DESCENT descent_f32
#define CODE code_f32
#define GPTQ_LANES gptq_lanes_f32
#define SWEEP sweep_f32
#define FIT fit_f32
#define CHANGE change_f32
#define NEIGHBOURS neighbours_f32
#define PAIRS pairs_f32
#define GPTQ driftwell_gptq_f32
#define DESCEND driftwell_descend_f32
#include "column_loops.h"
#undef REAL
#undef RINT
#undef LEVELS
#undef DESCENT
#undef CODE
#undef GPTQ_LANES
#undef SWEEP
#undef FIT
#undef CHANGE
#undef NEIGHBOURS
#undef PAIRS
#undef GPTQ
#undef DESCEND

#define REAL double
#define RINT rint
#define LEVELS levels_f64
#define DESCENT descent_f64
#define CODE code_f64
#define GPTQ_LANES gptq_lanes_f64
#define SWEEP sweep_f64
#define FIT fit_f64
#define CHANGE change_f64
#define NEIGHBOURS neighbours_f64
#define PAIRS pairs_f64
#define GPTQ driftwell_gptq_f64
#define DESCEND driftwell_descend_f64
#include "column_loops.h"
