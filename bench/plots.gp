# gnuplot -e "data='<folder with the .tsv files>'; out='docs/benchmarks_'" plots.gp
set terminal svg size 760,460 dynamic background "white" font "sans-serif,14"
set border 3
set tics nomirror
set grid ytics lc rgb "#dddddd"
do for [i=1:5] {set linetype i lc rgb word("#d62728 #1f77b4 #2ca02c #9467bd #8c564b", i) lw 2}

set output out.'roofline.svg'
set logscale xy
set key bottom right
set xlabel "flop per byte"
set ylabel "GFLOP/s, one thread"
do for [i=1:3] {stats data.'/ceilings.tsv' using i nooutput name word("peak memory cache", i)}
least(a, b) = a < b ? a : b
set xrange [0.1:100]
plot least(peak_max, x * memory_max) with lines lc rgb "#555555" dashtype 2 title "memory read", \
     least(peak_max, x * cache_max) with lines lc rgb "#555555" title "last cache read, multiply-add peak", \
     data.'/roofline.tsv' index 0 using 1:2 with points lt 1 pt 7 ps 0.6 title columnheader(1), \
     data.'/roofline.tsv' index 1 using 1:2 with points lt 2 pt 6 ps 0.6 title columnheader(1)

set key top left
set xrange [*:*]
set ylabel "forward and backward, ms, one thread"
do for [axis in "tokens heads"] {
  set output out.axis.'.svg'
  set xlabel (axis eq "tokens" ? "tokens" : "heads of the HydraLoRA")
  plot for [i=0:2] data.'/'.axis.'.tsv' index i using 1:2 with linespoints lt i+1 pt 7 ps 0.6 \
    title columnheader(1) noenhanced
  unset logscale
  set yrange [0:*]
}

set style data histogram
set style histogram clustered gap 1
set style fill solid 0.8 border -1
set boxwidth 0.9
set xlabel ""
set key below noenhanced
set xtics noenhanced

set output out.'layers.svg'
set ylabel "time over HydraLoRA's, one thread"
plot for [i=2:6] data.'/layers.tsv' using i:xtic(1) lt i-1 title columnheader(i)

set output out.'peers.svg'
set ylabel "time over this library's, one thread"
set arrow 1 from graph 0, first 1 to graph 1, first 1 nohead lc rgb "#555555" dashtype 2
set logscale y 2
set yrange [0.25:*]
set key top left inside
set xtics rotate by -20
plot data.'/peers.tsv' using 2:xtic(1) lt 1 title columnheader(2), '' using 3 lt 2 title columnheader(3)
