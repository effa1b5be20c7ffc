# gnuplot -e "folder='docs/evidence'" study.gp: the plots of `finetune_study`, when.csv and likeness.csv to SVG.
set datafile separator comma
set border 3
set tics nomirror

set terminal svg size 860,620 dynamic background "white" font "sans-serif,13"
set output folder.'/when.svg'
file = folder.'/when.csv'
stats file every ::1 using 3 nooutput
rows = STATS_records
set lmargin 42
set yrange [rows-0.3:-0.7]
set grid xtics lc rgb "#dddddd"
set arrow from 0, graph 0 to 0, graph 1 nohead lc rgb "#888888" lw 1.5
set xlabel "HydraLoRA − LoRA of the same size, bits per byte"
set errorbars small
plot file every ::1 using 3:0:4:yticlabel(stringcolumn(1).': '.stringcolumn(2)) with xerrorbars pointtype 7 \
  pointsize 0.6 linewidth 1.5 lc rgb "#d62728" notitle
unset output
unset arrow
set lmargin 2

set terminal svg size 860,460 dynamic background "white" font "sans-serif,13"
set output folder.'/likeness.svg'
file = folder.'/likeness.csv'
domains = system("awk -F, 'NR > 1 && !seen[$2]++ {print $2}' '".file."'")
colors = "#1f77b4 #d62728 #2ca02c #ff7f0e #9467bd #8c564b"
set autoscale y
set yrange [*:*]
set offsets graph 0.08, graph 0.08, graph 0.08, graph 0.08
unset xlabel
unset xtics
unset ytics
unset grid
set border 15
set key bottom center horizontal outside
set multiplot layout 1,2
do for [m in "A B"] {
  set title m
  plot for [i=1:words(domains)] file every ::1 \
    using (stringcolumn(1) eq m && stringcolumn(2) eq word(domains, i) ? $4 : NaN):5:3 with labels notitle \
    tc rgb word(colors, i), \
    for [i=1:words(domains)] NaN with points pointtype 7 lc rgb word(colors, i) title word(domains, i)
}
unset multiplot
print folder.'/when.svg and '.folder.'/likeness.svg written'
